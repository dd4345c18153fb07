#!/usr/bin/env bash
# Tests the NEON kernels on another processor: compiles them for 64-bit ARM and runs the tests under QEMU.
#
#   tools/test-neon.sh [arguments of cargo test]
#
# If the compiler has no ARM standard library (`rustup target add aarch64-unknown-linux-gnu`), a compiler with
# one is fetched from Debian's unstable release into target/neon/, with the libraries that it needs: 150 MB.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

target=aarch64-unknown-linux-gnu
neon=$root/target/neon
linker=aarch64-linux-gnu-gcc

# The cross linker and the emulator, which any Debian or Ubuntu has.
command -v "$linker" >/dev/null || install_package "a linker for ARM" gcc-aarch64-linux-gnu
[ -e /usr/aarch64-linux-gnu/lib/libc.so ] || install_package "the C library of ARM" libc6-dev-arm64-cross
command -v qemu-aarch64 >/dev/null || install_package "qemu-aarch64" qemu-user

# apt with lists and a cache of its own, which knows the unstable release only.
private_apt() {
    local command=$1
    shift
    "$command" -qq -o Dir::State="$neon/state" -o Dir::State::status="$neon/state/status" -o Dir::Cache="$neon/cache" \
        -o Dir::Etc::sourcelist="$neon/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64,arm64 -o APT::Sandbox::User= "$@"
}

fetch_compiler() {
    local packages deb
    say "fetching a compiler for $target"
    rm -rf "$neon"
    mkdir -p "$neon"/{state/lists/partial,cache/archives/partial,debs,system}
    touch "$neon/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) sid main" \
        >"$neon/sources.list"
    private_apt apt-get update
    # Libraries of the compiler and theirs; the compiler itself would bring a C compiler along.
    packages=$(private_apt apt-cache depends --recurse --important libstd-rust-dev:amd64 | grep -E '^[a-z0-9]' |
        grep -v ':arm64' | sort -u)
    # shellcheck disable=SC2086  # a list of names
    (cd "$neon/debs" && private_apt apt-get download rustc:amd64 libstd-rust-dev:arm64 $packages)
    for deb in "$neon"/debs/*.deb; do
        dpkg-deb -x "$deb" "$neon/system"
    done
    # Run with its own C library, as it may be newer than the one of this system.
    cat >"$neon/rustc.new" <<END
#!/bin/sh
lib=$neon/system/usr/lib/x86_64-linux-gnu
exec $neon/system/usr/lib64/ld-linux-x86-64.so.2 --library-path \$lib \\
    $neon/system/usr/bin/rustc --sysroot $neon/system/usr "\$@"
END
    chmod +x "$neon/rustc.new"
    mv "$neon/rustc.new" "$neon/rustc"
}

if ! [ -d "$(rustc --print target-libdir --target "$target")" ]; then
    if [ "$(uname -m)" != x86_64 ]; then
        fail "the compiler has no standard library for $target" "rustup target add $target"
    fi
    [ -x "$neon/rustc" ] || fetch_compiler
    export RUSTC=$neon/rustc
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$linker
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
# Products of another compiler are kept apart, lest each throw the other's away.
CARGO_TARGET_DIR=$root/target/emulated exec cargo test -p distillvq-kernels --target "$target" --lib --tests "$@"
