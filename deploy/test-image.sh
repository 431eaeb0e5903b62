#!/usr/bin/env bash
# Makes an image around a program that was built before: what the tests of the compose files start.
# All but the binary's last step into it is what the Dockerfile says of the default image. The base
# image is that of base-image.sh where there is apt-get, so that the libraries are this machine's;
# elsewhere the Dockerfile's own.
#
#   deploy/test-image.sh node target/debug/cloudkv-node cloudkv/node:test
#   deploy/test-image.sh router target/debug/cloudkv-router cloudkv/router:test
set -euo pipefail

kind=$1
binary=$(realpath "$2")
image=$3
cd "$(dirname "$0")/.."

base=()
if command -v apt-get >/dev/null; then
    deploy/base-image.sh runtime
    base=(--build-arg RUNTIME_IMAGE=cloudkv/runtime-base)
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strip -o "$work/cloudkv-$kind" "$binary"
docker build --quiet --file deploy/Dockerfile --target "$kind-runtime" \
    "${base[@]}" --tag "cloudkv/$kind-runtime" . >/dev/null
docker build --quiet --file - --tag "$image" "$work" >/dev/null <<DOCKERFILE
FROM cloudkv/$kind-runtime
COPY cloudkv-$kind /usr/local/bin/cloudkv-$kind
DOCKERFILE
