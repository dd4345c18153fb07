#!/usr/bin/env bash
# versions.sh VERSION…: compiles the extension for these major versions of PostgreSQL, with warnings as errors; run through
# tools/with_env.sh.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

for version in "$@"; do
    PGRX_PG_CONFIG_PATH=$(build_pg_config "$version")
    export PGRX_PG_CONFIG_PATH
    say "compiling for PostgreSQL $version"
    cargo clippy --locked --package distillvq --no-default-features --features "pg$version" -- --deny warnings
done
say "compiles for PostgreSQL $*"
