#!/usr/bin/env bash
# Builds the base images of deploy/Dockerfile from Debian packages, for machines with access to
# Debian's mirrors but not to an image registry.
#
#   deploy/base-image.sh runtime   cloudkv/runtime-base: libc, libstdc++ and nothing else
#   deploy/base-image.sh build     cloudkv/build-base: Debian with a C++ compiler and the Rust
#                                  toolchain of this machine; with ROCKSDB_LIB_DIR also that
#                                  RocksDB, so that the image build doesn't compile it
#
# Then: docker build -f deploy/Dockerfile --build-arg RUNTIME_IMAGE=cloudkv/runtime-base ...
# An existing image is kept unless --force is given. `runtime` needs apt-get (Debian 12, or another
# release with the libc that the binaries were built for); `build` needs debootstrap and root.
set -euo pipefail

kind=${1:-}
force=${2:-}
docker=${DOCKER:-docker}

say() { printf 'base-image: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

image_exists() { "$docker" image inspect "$1" >/dev/null 2>&1; }

# Builds an image with the libraries of distroless/cc, without a package manager or a shell.
runtime() {
    local work=$1 root=$1/root package
    mkdir -p "$root" "$work/debs"
    (
        cd "$work/debs"
        apt-get download -qq base-files libc6 libgcc-s1 libstdc++6 ca-certificates tzdata
    )
    for package in "$work"/debs/*.deb; do
        dpkg-deb --extract "$package" "$root"
    done
    rm -rf "$root"/usr/share/{doc,man,info,lintian,bug,locale} "$root"/usr/lib/*/gconv
    # No package scripts run here, so concatenate the certificates as that of ca-certificates would.
    find "$root/usr/share/ca-certificates" -name '*.crt' -exec cat {} + \
        >"$root/etc/ssl/certs/ca-certificates.crt"
    printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' \
        >"$root/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
    mkdir -p "$root/tmp" "$root/home/nonroot"
    chmod 1777 "$root/tmp"
    tar --create --numeric-owner --owner=0 --group=0 --directory "$root" . |
        "$docker" import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$2" >/dev/null
}

# Builds an image with a compiler and the Rust toolchain of this machine.
build() {
    local work=$1 root=$1/root toolchain
    local changes=(--change 'ENV PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')
    command -v debootstrap >/dev/null || die "debootstrap is required: apt-get install debootstrap"
    [[ $EUID -eq 0 ]] || die "root is required"
    toolchain=$(rustc --print sysroot)
    debootstrap --variant=minbase --include=build-essential,ca-certificates,libclang-dev \
        bookworm "$root" >&2
    # Use the mirrors and the trusted CAs of this machine.
    rm -f "$root/etc/apt/sources.list"
    cp -r /etc/apt/sources.list* /etc/apt/apt.conf.d "$root/etc/apt/"
    install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    cp -a "$toolchain" "$root/opt/rust"
    rm -rf "$root"/opt/rust/share "$root"/var/cache/apt/archives/*.deb
    if [[ -n ${ROCKSDB_LIB_DIR:-} ]]; then
        mkdir "$root/opt/rocksdb"
        cp "$ROCKSDB_LIB_DIR/librocksdb.a" "$root/opt/rocksdb/"
        changes+=(--change 'ENV ROCKSDB_LIB_DIR=/opt/rocksdb ROCKSDB_STATIC=1')
    fi
    tar --create --numeric-owner --directory "$root" . |
        "$docker" import "${changes[@]}" - "$2" >/dev/null
}

case $kind in
runtime | build) image=cloudkv/$kind-base ;;
*) die "usage: $0 runtime|build [--force]" ;;
esac
if [[ $force != --force ]] && image_exists "$image"; then
    say "$image already exists (--force rebuilds it)"
    exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$kind" "$work" "$image"
say "built $image, $("$docker" image inspect --format '{{.Size}}' "$image" | numfmt --to=iec)"
