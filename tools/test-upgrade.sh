#!/usr/bin/env bash
# test-upgrade.sh: installs the extension also into the server of OLD_PG_CONFIG, and upgrades a database from it to the server
# of PG_CONFIG; run through tools/with_env.sh.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
: "${PG_CONFIG:?names the new server: run through tools/with_env.sh}"
OLD_PG_CONFIG=${OLD_PG_CONFIG:-$(wheel_server "$root/tools/old-server.txt")}
export OLD_PG_CONFIG
tools/install.sh
PG_CONFIG=$OLD_PG_CONFIG tools/install.sh
cargo test --locked --package distillvq-server-tests --test upgrade -- --ignored
