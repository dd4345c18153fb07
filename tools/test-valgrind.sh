#!/usr/bin/env bash
# test-valgrind.sh: all features once on a server that valgrind watches; run through tools/with_env.sh. Fails if that
# reports an error that neither PostgreSQL's own list of suppressions nor valgrind.supp here names.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
: "${DISTILLVQ_RUN:?is set by tools/with_env.sh}"
command -v valgrind >/dev/null || install_package valgrind valgrind
tools/build.sh
PG_CONFIG=$(tools/source_server.sh assert)
export PG_CONFIG
tools/install.sh
logs=$DISTILLVQ_RUN/valgrind
rm -rf "$logs"
as_server_user mkdir "$logs"
supp=$(dirname "$(dirname "$PG_CONFIG")")/valgrind.supp
DISTILLVQ_WATCHED_BY="$(command -v valgrind) --quiet --leak-check=no --trace-children=yes --num-callers=25 \
    --error-markers=VALGRINDERROR-BEGIN,VALGRINDERROR-END --suppressions=$supp --suppressions=$root/tools/valgrind.supp --log-file=$logs/%p.log"
export DISTILLVQ_WATCHED_BY
cargo test --locked --package distillvq-server-tests --test all_features
if reports=$(grep -l VALGRINDERROR-BEGIN "$logs"/*.log); then
    # shellcheck disable=SC2086 # a list of files
    cat $reports >&2
    fail "valgrind reports errors" "The logs are in $logs"
fi
say "valgrind found no errors in $(find "$logs" -name '*.log' | wc -l) processes"
