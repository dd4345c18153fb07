#!/usr/bin/env bash
# deb.sh VERSION…: builds Debian packages of the extension for these major versions of PostgreSQL, and a package of debug symbols
# for each, into target/deb/; checks them with lintian if that is installed.
#
# debhelper packs the files, as in Debian's own packages of extensions: it strips the library, keeps the debug symbols in a
# package of their own, computes the dependency on the C library, and gives the same bytes for the same library.
# pg_buildext does not choose the versions, since it builds only for those whose server packages are installed: the
# headers alone are enough. nfpm would need these steps written by hand, and is no package of Debian.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
DISTILLVQ_RUN=$(run_directory)
export DISTILLVQ_RUN
command -v dh >/dev/null || install_package "debhelper" debhelper
need_rust

if [ -n "${PG_CONFIG:-}" ]; then
    need_server "$PG_CONFIG"
    named=$PG_MAJOR
fi
# The server of PG_CONFIG is the source of the headers of its version.
pg_config_for() {
    if [ "$1" = "${named:-}" ]; then echo "$PG_CONFIG"; else build_pg_config "$1"; fi
}
[ $# -gt 0 ] || set -- "${named:-18}"

version=$(distillvq_version)
email=${DEBEMAIL:-$(git config user.email 2>/dev/null || echo root@localhost.localdomain)}
maintainer="${DEBFULLNAME:-$(git config user.name 2>/dev/null || echo distillvq)} <$email>"
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
# The least pgvector is the one that the SQL script demands.
pgvector=$(sed -nE "s/.*least_pgvector .*'([0-9.]+)'.*/\1/p" "sql/distillvq--$version.sql")
[ -n "$pgvector" ] || fail "sql/distillvq--$version.sql names no version of pgvector"

stage=target/deb/distillvq-$version
rm -rf "$stage"
mkdir -p "$stage"
cp -R debian distillvq.control sql README.md CHANGELOG.md "$stage"
control=$stage/debian/control
sed '/^Package:/,$d' debian/control.in >"$control"
for major in "$@"; do
    PG_CONFIG=$(pg_config_for "$major")
    PG_CONFIG=$PG_CONFIG tools/build.sh
    # One library serves every x86-64 Linux whose C library is that of Debian 12 or newer.
    newest=$(objdump -T "target/pg$major/distillvq.so" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)
    [ "$(printf '%s\nGLIBC_2.36\n' "$newest" | sort -V | tail -n 1)" = GLIBC_2.36 ] ||
        fail "the library for PostgreSQL $major needs $newest, which Debian 12 lacks"
    mkdir -p "$stage/lib/$major"
    cp "target/pg$major/distillvq.so" "$stage/lib/$major"
    { sed -n '/^Package:/,$p' debian/control.in | sed "s/PGVERSION/$major/g" && echo; } >>"$control"
done
sed -i "s/@PGVECTOR@/$pgvector/; s/@MAINTAINER@/$maintainer/" "$control"
sed 's/^$/./; s/^/ /' LICENSE >>"$stage/debian/copyright"
python3 tools/licenses.py "$1" >"$stage/THIRD-PARTY-LICENSES"
printf 'distillvq (%s-1) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date --utc --rfc-email --date "@$time")" >"$stage/debian/changelog"

rm -f target/deb/*.deb
(
    # Make's own settings are not for the package's rules.
    unset MAKEFLAGS MAKELEVEL DESTDIR
    cd "$stage" && dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
) >"$stage.log" 2>&1 || fail "the packages could not be built" "See $stage.log"
rm -f target/deb/*.buildinfo target/deb/*.changes
if command -v lintian >/dev/null; then
    # The package is not for an upload to Debian, which closes a bug.
    lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs target/deb/*.deb
fi
ls -l target/deb/*.deb >&2
