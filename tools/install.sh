#!/usr/bin/env bash
# install.sh: builds the extension if needed and installs it into the extension directories of the server of PG_CONFIG, below DESTDIR.
# install.sh --remove: removes it.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ -n "${PG_CONFIG:-}" ] ||
    fail "PG_CONFIG is not set: make install PG_CONFIG=$(command -v pg_config || echo /path/to/pg_config)"
cd "$root"
need_server "$PG_CONFIG"
libraries=${DESTDIR:-}$("$PG_CONFIG" --pkglibdir)
extensions=${DESTDIR:-}$("$PG_CONFIG" --sharedir)/extension

# put MODE FILE DIRECTORY [NAME]: an identical file is kept; another one is replaced atomically, so that a running server
# never reads a partial file.
put() {
    local target=$3/${4:-$(basename "$2")}
    cmp -s "$2" "$target" && return
    mkdir -p "$3" 2>/dev/null || true
    [ -w "$3" ] ||
        fail "no permission to write to $3" "Install as a user with this permission: sudo make install PG_CONFIG=$PG_CONFIG"
    install -m "$1" "$2" "$target.$$"
    mv -f "$target.$$" "$target"
    say "installed $target"
}

if [ "${1:-}" = --remove ]; then
    rm -f "$libraries/distillvq.so" "$extensions/distillvq.control" "$extensions"/distillvq--*.sql
    exit
fi

tools/build.sh
put 755 "target/pg$PG_MAJOR/distillvq.so" "$libraries"
put 644 distillvq.control "$extensions"
for script in sql/distillvq--*.sql; do
    put 644 "$script" "$extensions"
done
