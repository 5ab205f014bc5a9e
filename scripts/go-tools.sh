#!/usr/bin/env bash
# Build Go programs as deploy/tools/NAME/go.mod pins them, and link them as STATE/tools/NAME (bin/...). The folder's files
# "ldflags" (given to the linker) and "files.txt" (files to copy out of modules: module, path, where to) count too.
# They are built once for each content of that folder, into the cache outside of the checkout (GENMESH_CACHE; see
# model_repository/genmesh_models/cache.py), and every use checks their checksums. Usage: go-tools.sh STATE NAME...
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:?where to link them}/tools"
state=$(realpath "$1")
cache=$(realpath -m "${GENMESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/genmesh}")

build() { # NAME FOLDER
  local from=deploy/tools/$1 into=$2
  command -v go >/dev/null || { echo "Go is missing; it builds the tools of $from (https://go.dev/dl)." >&2; exit 1; }
  mkdir -p "$into/bin"
  (cd "$from" && GOBIN=$into/bin CGO_ENABLED=0 go install -trimpath -ldflags "$(cat ldflags 2>/dev/null || echo -s -w)" tool)
  [ -e "$into/bin/cmd" ] && mv "$into/bin/cmd" "$into/bin/$1" # a package called cmd
  while read -r module path where; do
    folder=$(cd /tmp && GOFLAGS=-mod=mod GO111MODULE=on go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    mkdir -p "$into/$where"
    cp "$folder/$path" "$into/$where/"
  done < <(cat "$from/files.txt" 2>/dev/null)
}

for name in "${@:2}"; do
  key=$(cat deploy/tools/"$name"/* | sha256sum | cut -d' ' -f1)
  shelf=$cache/tools/$name
  mkdir -p "$shelf"
  exec 9>"$shelf/.lock"
  flock 9 # another run may be building the same
  if ! (cd "$shelf/$key" 2>/dev/null && sha256sum --check --status --strict "../$key.sha256" 2>/dev/null); then
    if [ -e "$shelf/$key" ]; then why=", for those in $shelf are not what was built"; else why=" (minutes, once)"; fi
    echo "Building the tools of deploy/tools/$name$why"
    rm -rf "${shelf:?}/$key" "$shelf/$key.sha256" "$shelf"/.new.*
    new=$(mktemp -d "$shelf/.new.XXXXXX")
    build "$name" "$new"
    (cd "$new" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$new.sha256"
    mv "$new" "$shelf/$key"
    mv "$new.sha256" "$shelf/$key.sha256"
  fi
  touch "$shelf/$key.sha256"
  find "$shelf" -name '*.sha256' -mtime +30 -exec sh -c 'rm -rf "${1%.sha256}" "$1"' _ {} \;
  exec 9>&-
  [ -L "$state/tools/$name" ] || rm -rf "${state:?}/tools/$name"
  ln -sfn "$shelf/$key" "$state/tools/$name"
done
