#!/usr/bin/env bash
# Makes an image around a node that was built before, on the base image of base-image.sh: what the
# tests of the compose files start. It differs from the default image in where the binary was
# compiled, and in nothing that the Dockerfile says.
#
#   deploy/test-image.sh target/debug/cloudkv-node cloudkv/node:test
set -euo pipefail

binary=$(realpath "$1")
image=$2
cd "$(dirname "$0")/.."

deploy/base-image.sh runtime
mkdir -p target/image
strip -o target/image/cloudkv-node "$binary"
docker build --quiet --file deploy/Dockerfile --target node-prebuilt \
    --build-arg RUNTIME_IMAGE=cloudkv/runtime-base --tag "$image" . >/dev/null
