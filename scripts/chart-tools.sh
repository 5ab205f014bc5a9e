#!/usr/bin/env bash
# Build helm and kubeconform as deploy/tools/chart/go.mod pins them, and fetch the schemas of foreign kinds.
# Done once for each version of that folder; needs Go. Usage: chart-tools.sh STATE
set -euo pipefail
cd "$(dirname "$0")/.."
state=$(realpath "${1:?where to keep them}")
from=deploy/tools/chart
stamp=$(cat $from/* | sha256sum | cut -d' ' -f1)
into=$state/tools/chart
[ "$(cat "$into/stamp" 2>/dev/null)" = "$stamp" ] && exit 0
command -v go >/dev/null || { echo "Go is missing; it builds helm and kubeconform (https://go.dev/dl)." >&2; exit 1; }
echo "Building helm and kubeconform (some minutes, once)"
mkdir -p "$into/bin" "$into/crds"
flags="-s -w -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34"
flags="$flags -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=34"
(cd $from && GOBIN=$into/bin CGO_ENABLED=0 go install -trimpath -ldflags "$flags" tool)
while read -r module path; do
  folder=$(cd /tmp && GOFLAGS=-mod=mod GO111MODULE=on go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  cp "$folder/$path" "$into/crds/"
done <$from/crds.txt
echo "$stamp" >"$into/stamp"
