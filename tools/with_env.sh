#!/usr/bin/env bash
# with_env.sh COMMAND…: finds or fetches what building and testing need, and runs a command with these settings:
#   PG_CONFIG      the server to build for and to run; by default the private server in .server/
#   DISTILLVQ_RUN  directory for the servers of this checkout
#   DISTILLVQ_SERVER_USER  uid:gid of the user of servers, if run as root
# Without a command: prints the settings, for `eval "$(tools/with_env.sh)"`.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_build_tools
DISTILLVQ_RUN=$(run_directory)
make_run_directory "$DISTILLVQ_RUN"
if [ -n "${PG_CONFIG:-}" ]; then
    named=$PG_CONFIG
    PG_CONFIG=$(command -v "$named") || fail "PG_CONFIG=$named is not a program"
    [ "${PG_CONFIG#/}" != "$PG_CONFIG" ] || PG_CONFIG=$PWD/$PG_CONFIG
else
    PG_CONFIG=$(wheel_server "$root/tools/server.txt")
fi
need_server "$PG_CONFIG"
[ -f "$("$PG_CONFIG" --sharedir)/extension/vector.control" ] ||
    fail "the server of $PG_CONFIG lacks pgvector" "Install it there first: https://github.com/pgvector/pgvector#installation"

export PG_CONFIG PG_MAJOR DISTILLVQ_RUN PGRX_PG_CONFIG_PATH=$PG_CONFIG
# Set only for root, whose servers run as another user.
if is_root; then
    DISTILLVQ_SERVER_USER=$(id -u "$(server_user)"):$(id -g "$(server_user)")
    export DISTILLVQ_SERVER_USER
fi

if [ $# -eq 0 ]; then
    declare -x | grep -E ' (PG_CONFIG|PG_MAJOR|PGRX_PG_CONFIG_PATH|DISTILLVQ_[A-Z_]+)='
else
    exec "$@"
fi
