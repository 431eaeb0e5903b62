#!/usr/bin/env bash
# Makes an image around a node that was built before: what the tests of the compose files start. All
# but the binary's last step into it is what the Dockerfile says of the default image. The base image
# is that of base-image.sh where there is apt-get, so that the libraries are this machine's; elsewhere
# the Dockerfile's own.
#
#   deploy/test-image.sh target/debug/cloudkv-node cloudkv/node:test
set -euo pipefail

binary=$(realpath "$1")
image=$2
cd "$(dirname "$0")/.."

base=()
if command -v apt-get >/dev/null; then
    deploy/base-image.sh runtime
    base=(--build-arg RUNTIME_IMAGE=cloudkv/runtime-base)
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strip -o "$work/cloudkv-node" "$binary"
docker build --quiet --file deploy/Dockerfile --target node-runtime \
    "${base[@]}" --tag cloudkv/node-runtime . >/dev/null
docker build --quiet --file - --tag "$image" "$work" >/dev/null <<'DOCKERFILE'
FROM cloudkv/node-runtime
COPY cloudkv-node /usr/local/bin/cloudkv-node
DOCKERFILE
