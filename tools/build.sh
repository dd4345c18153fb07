#!/usr/bin/env bash
# build.sh: builds the extension for the server of PG_CONFIG into target/pgNN/distillvq.so, unless that is newer than
# every source. A user without Rust, such as root, can therefore install a build of another user.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${PG_CONFIG:?names the server to build for}"
cd "$root"

need_server "$PG_CONFIG"
library=target/pg$PG_MAJOR/distillvq.so
sources=(Cargo.toml Cargo.lock .cargo src crates/{kernels,linalg,model,training,pages,ivf})

if [ -f "$library" ] && [ -z "$(find "${sources[@]}" -newer "$library" | head -n 1)" ]; then
    exit 0
fi

need_build_tools
say "building distillvq for PostgreSQL $PG_MAJOR (the first build takes several minutes)"
PGRX_PG_CONFIG_PATH=$(command -v "$PG_CONFIG") cargo build --locked --release --package distillvq \
    --no-default-features --features "pg$PG_MAJOR" --target-dir target
case $(uname) in
    Darwin) built=target/release/libdistillvq.dylib ;;
    *) built=target/release/libdistillvq.so ;;
esac
mkdir -p "$(dirname "$library")"
cp "$built" "$library"
