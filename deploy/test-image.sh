#!/usr/bin/env bash
# Builds an image around a compiled program, for the tests of the compose files. Everything but the
# copying of the binary is done by the Dockerfile. With apt-get the base image is that of
# base-image.sh, so that its libraries match the binary; without, it is the Dockerfile's default.
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
