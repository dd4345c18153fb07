#!/usr/bin/env bash
# test-deb.sh [MAJOR]: installs the package of target/deb/ with apt in a pristine Debian that has PostgreSQL and pgvector from Debian,
# and runs the SQL of docs/quick-start.md there. Needs root, for the mounts. Debian's roots are kept in .server/.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
major=${1:-17}
suite=$(debian_release "$major")
is_root || fail "a Debian root needs mounts" "Run as root: sudo make test-deb"

shopt -s nullglob
packages=("target/deb/postgresql-$major-distillvq_"*.deb)
[ ${#packages[@]} = 1 ] || fail "target/deb/ has no package for PostgreSQL $major" "make deb VERSIONS=$major"

base=$(debian_root "$major" "postgresql-$major,postgresql-$major-pgvector")
work=$(mktemp -d "${TMPDIR:-/tmp}/test-deb.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
tar -xf "$base" -C "$work"
cp "${packages[0]}" "$work/root/"
tools/quick_start_sql.sh >"$work/root/quick-start.sql"
cat >"$work/root/test.sh" <<END
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive PAGER=
cd /root
since() { awk -v since="\$1" -v now="\$(date +%s.%N)" 'BEGIN { printf "%.1f s", now - since }'; }
start=\$(date +%s.%N)
apt-get update -qq
apt-get install -qq -y ./*.deb >/dev/null
echo "package installed after \$(since \$start)"
pg_ctlcluster $major main start
# The connection waits for nothing: pg_ctlcluster returns when the server accepts connections.
runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -f - <quick-start.sql >quick-start.out
echo "quick start done after \$(since \$start)"
grep -q 'Index Scan using items_embedding_idx' quick-start.out
tail -n 6 quick-start.out
runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 -c 'DROP EXTENSION distillvq CASCADE'
pg_ctlcluster $major main stop
apt-get purge -qq -y postgresql-$major-distillvq >/dev/null
test -z "\$(find /usr -name '*distillvq*')"
END
say "installing $(basename "${packages[0]}") in Debian $suite"
# The processes of the root end with its first one.
# shellcheck disable=SC2016 # the inner bash expands it
unshare --mount --pid --fork --kill-child bash -c '
    mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$1" bash /root/test.sh' bash "$work" ||
    fail "the package does not work in Debian $suite"
say "the package works in Debian $suite with PostgreSQL $major"
