#!/usr/bin/env bash
# Makes an image around a node that was built before, on the base image of base-image.sh: what the
# tests of the compose files start. All but the binary's last step into it is what the Dockerfile
# says of the default image.
#
#   deploy/test-image.sh target/debug/cloudkv-node cloudkv/node:test
set -euo pipefail

binary=$(realpath "$1")
image=$2
cd "$(dirname "$0")/.."

deploy/base-image.sh runtime
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strip -o "$work/cloudkv-node" "$binary"
docker build --quiet --file deploy/Dockerfile --target node-runtime \
    --build-arg RUNTIME_IMAGE=cloudkv/runtime-base --tag cloudkv/node-runtime . >/dev/null
docker build --quiet --file - --tag "$image" "$work" >/dev/null <<'DOCKERFILE'
FROM cloudkv/node-runtime
COPY cloudkv-node /usr/local/bin/cloudkv-node
DOCKERFILE
