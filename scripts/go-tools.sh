#!/usr/bin/env bash
# Build Go programs as deploy/tools/NAME/go.mod pins them, into STATE/tools/NAME/bin. Once for each content of that
# folder: its files "ldflags" (given to the linker) and "files.txt" (files to copy out of modules: module, path,
# where to) count too. Usage: go-tools.sh STATE NAME...
set -euo pipefail
cd "$(dirname "$0")/.."
state=$(realpath "${1:?where to keep them}")
for name in "${@:2}"; do
  from=deploy/tools/$name
  into=$state/tools/$name
  stamp=$(cat "$from"/* | sha256sum | cut -d' ' -f1)
  [ "$(cat "$into/stamp" 2>/dev/null)" = "$stamp" ] && continue
  command -v go >/dev/null || { echo "Go is missing; it builds the tools of $from (https://go.dev/dl)." >&2; exit 1; }
  echo "Building the tools of $from (minutes, once)"
  mkdir -p "$into/bin"
  (cd "$from" && GOBIN=$into/bin CGO_ENABLED=0 go install -trimpath -ldflags "$(cat ldflags 2>/dev/null || echo -s -w)" tool)
  [ -e "$into/bin/cmd" ] && mv "$into/bin/cmd" "$into/bin/$name" # a package called cmd
  while read -r module path where; do
    folder=$(cd /tmp && GOFLAGS=-mod=mod GO111MODULE=on go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    mkdir -p "$into/$where"
    cp "$folder/$path" "$into/$where/"
  done < <(cat "$from/files.txt" 2>/dev/null)
  echo "$stamp" >"$into/stamp"
done
