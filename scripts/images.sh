#!/usr/bin/env bash
# Build the images of deploy/images with buildah, and print their sizes. Usage: images.sh NAME...
#
# The very same files build with `docker build -f deploy/images/NAME.Dockerfile .`. Where no registry can be reached,
# the base image is made by debootstrap under the name that the files give (IMAGE_BASE=debootstrap forces it).
set -euo pipefail
cd "$(dirname "$0")/.."
export STORAGE_DRIVER=${STORAGE_DRIVER:-overlay} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
base=docker.io/library/debian:bookworm-slim
ours=$(mktemp -d)
trap 'rm -rf "$ours"' EXIT

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  if [ "${IMAGE_BASE:-}" = debootstrap ] || ! buildah pull -q "$base" >/dev/null 2>&1; then
    echo "Making the base image with debootstrap"
    debootstrap --variant=minbase bookworm "$ours/root" >"$ours/log" 2>&1 || { tail -5 "$ours/log" >&2; exit 1; }
    rm -rf "$ours"/root/var/cache/apt/archives/*.deb "$ours"/root/var/lib/apt/lists/* \
      "$ours"/root/usr/share/{doc,man,locale,info}/*
    container=$(buildah from scratch)
    buildah add -q "$container" "$ours/root" / >/dev/null
    buildah commit -q --rm "$container" "$base" >/dev/null
  fi
fi
# What this machine's pip trusts and asks, mounted for the time of the build only.
mounts=()
if [ -n "${PIP_CERT:-}" ] || [ -f /etc/pip.conf ]; then
  { cat /etc/pip.conf 2>/dev/null || true; printf '\n[install]\ncert = /run/build-certificates.crt\n'; } >"$ours/pip.conf"
  cp "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$ours/certificates.crt"
  mounts=(--volume "$ours/pip.conf:/etc/pip.conf:ro" --volume "$ours/certificates.crt:/run/build-certificates.crt:ro")
fi
# Under which ids: another checkout on this machine may give the names to images of its own.
mkdir -p .state/images
for name in "$@"; do
  context=.
  if [ "$name" = pause ]; then
    mkdir -p "$ours/pause"
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$ours/pause/pause" deploy/cluster/pause/main.go
    context=$ours/pause
  fi
  buildah bud -q --layers --pull-never --network host "${mounts[@]}" \
    -t "genmesh/$name:${IMAGE_TAG:-0.1.0}" --iidfile ".state/images/$name-${IMAGE_TAG:-0.1.0}" -f "deploy/images/$name.Dockerfile" "$context" >/dev/null
  buildah images --format '{{.Name}}:{{.Tag}}  {{.Size}}' "genmesh/$name:${IMAGE_TAG:-0.1.0}"
done
