#!/usr/bin/env bash
# source_server.sh plain|assert [MAJOR]: prints the pg_config of a PostgreSQL with pgvector, without or with assertions, of this
# major version or that of PG_CONFIG. The first run builds it into .server/.
#
# The sources are Debian's, fetched by apt with its own lists and cache, without changes to the machine's configuration,
# and verified by Debian's signature. The one with assertions also informs valgrind about its memory contexts (-DUSE_VALGRIND).

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
kind=${1:?plain or assert}
: "${DISTILLVQ_RUN:?is set by tools/with_env.sh}" "${PG_MAJOR:?likewise}"
major=${2:-$PG_MAJOR}

suite=$(debian_release "$major")
# A server of the private server's version takes over that one's pgvector: assertions change no structure that a library
# sees. Older ones build Debian's, which before trixie lacks types that are needed.
pgvector_suite=trixie

# fetch WORK: the sources of both, into WORK.
fetch() {
    local mirror archive
    mirror=$(debian_mirror)
    for archive in $suite $pgvector_suite; do
        echo "deb-src [signed-by=$debian_keyring] $mirror $archive main"
    done | sort -u >"$1/sources.list"
    private_apt "$1" update
    (cd "$1" && private_apt "$1" source --tar-only --download-only "postgresql-$major/$suite" "pgvector/$pgvector_suite")
    for archive in "$1"/*.orig.tar.*; do
        tar -xf "$archive" -C "$1"
    done
}

# add_pgvector WORK TARGET: to the server of that pg_config.
add_pgvector() {
    if [ "$major" = "$PG_MAJOR" ]; then
        cp "$("$PG_CONFIG" --pkglibdir)/vector.so" "$("$2" --pkglibdir)/" &&
            cp "$("$PG_CONFIG" --sharedir)"/extension/vector* "$("$2" --sharedir)/extension/"
    else
        make -C "$1"/pgvector-*/ -j2 OPTFLAGS= PG_CONFIG="$2" install
    fi
}

# build WORK PREFIX FLAG…: what servers of tests need, without documentation and with the contrib modules that they use. The
# prefix appears complete or not at all.
build() {
    local work=$1 prefix=$2 module
    shift 2
    (
        # Below another make, PostgreSQL's takes its generated headers for made.
        unset MAKELEVEL MAKEFLAGS MFLAGS
        cd "$work"/postgresql-*/ &&
            ./configure --prefix="$prefix" --without-readline --without-icu "$@" &&
            make -j2 &&
            make install DESTDIR="$work/installed" &&
            for module in pg_buffercache postgres_fdw; do
                make -C contrib/$module install DESTDIR="$work/installed" || exit
            done &&
            cp src/tools/valgrind.supp "$work/installed$prefix/" &&
            add_pgvector "$work" "$work/installed$prefix/bin/pg_config" &&
            rm -rf "$prefix" &&
            mv "$work/installed$prefix" "$prefix"
    ) >"$prefix.log" 2>&1 || fail "cannot build PostgreSQL" "See $prefix.log"
}

# is_complete PREFIX: whether it is there, with what came last to what is built.
is_complete() {
    [ -x "$1/bin/pg_config" ] && [ -f "$("$1/bin/pg_config" --sharedir)/extension/vector.control" ]
}

home=$root/.server
as_server_user test -x "$root" || home=$DISTILLVQ_RUN
prefix=$home/$kind-$major
if ! is_complete "$prefix"; then
    flags=(--enable-debug CFLAGS='-O2 -fno-omit-frame-pointer')
    if [ "$kind" = assert ]; then
        # The header is needed to compile with -DUSE_VALGRIND.
        [ -f /usr/include/valgrind/valgrind.h ] || install_package valgrind valgrind
        flags+=(--enable-cassert CPPFLAGS=-DUSE_VALGRIND)
    fi
    command -v bison >/dev/null || install_package bison bison
    command -v flex >/dev/null || install_package flex flex
    [ -f /usr/include/zlib.h ] || install_package "the header of zlib" zlib1g-dev
    work=$(mktemp -d "${TMPDIR:-/tmp}/source-server.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "fetching the sources of PostgreSQL $major and pgvector from Debian (24 MB)"
    fetch "$work"
    say "building them (once; several minutes)"
    mkdir -p "$home"
    build "$work" "$prefix" "${flags[@]}"
fi
printf '%s\n' "$prefix/bin/pg_config"
