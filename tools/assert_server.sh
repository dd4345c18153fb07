#!/usr/bin/env bash
# assert_server.sh: prints the pg_config of a PostgreSQL with assertions, which is built into .server/ the first time.
#
# The sources are Debian's, fetched by apt with lists and cache of their own: the machine's configuration stays as it is.
# Debian's signature stands for them. It is of the same major version as the private server, whose pgvector it takes over:
# assertions change no structure that a library sees. With -DUSE_VALGRIND it also tells valgrind about its memory contexts.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${PG_CONFIG:?names the server without assertions: run through tools/with_env.sh}"

package=postgresql-$PG_MAJOR
suite=${ASSERT_SUITE:-forky}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# private_apt WORK ARGUMENT…: apt-get with one source, whose lists and cache are in WORK.
private_apt() {
    local work=$1
    shift
    apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@" >&2
}

# fetch WORK: the source's archive, into WORK.
fetch() {
    if ! command -v apt-get >/dev/null || [ ! -f "$keyring" ]; then
        fail "the sources of PostgreSQL come from Debian, by apt" "Build a server with --enable-cassert, and: make test PG_CONFIG=…"
    fi
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    echo "deb-src [signed-by=$keyring] $(debian_mirror) $suite main" >"$1/sources.list"
    private_apt "$1" update
    (cd "$1" && private_apt "$1" source --tar-only --download-only "$package")
}

# build WORK PREFIX: what servers of tests need, without documentation and with the contrib modules that they use. The
# prefix appears complete or not at all.
build() {
    local log=$2.log
    (
        cd "$1"/postgresql-*/ &&
            ./configure --prefix="$2" --enable-cassert --enable-debug --without-readline --without-icu \
                CFLAGS='-O2 -fno-omit-frame-pointer' CPPFLAGS=-DUSE_VALGRIND &&
            make -j2 &&
            make install DESTDIR="$1/installed" &&
            make -C contrib/pg_buffercache install DESTDIR="$1/installed" &&
            make -C contrib/postgres_fdw install DESTDIR="$1/installed" &&
            cp src/tools/valgrind.supp "$1/installed$2/" &&
            rm -rf "$2" &&
            mv "$1/installed$2" "$2"
    ) >"$log" 2>&1 || fail "PostgreSQL could not be built" "See $log"
}

# is_complete PREFIX: whether it is there, with the module that came last to those that are built.
is_complete() {
    [ -x "$1/bin/pg_config" ] && [ -f "$("$1/bin/pg_config" --sharedir)/extension/postgres_fdw.control" ]
}

# take_over_pgvector PREFIX: the private server's.
take_over_pgvector() {
    cp -u "$("$PG_CONFIG" --pkglibdir)/vector.so" "$("$1/bin/pg_config" --pkglibdir)/"
    cp -u "$("$PG_CONFIG" --sharedir)"/extension/vector* "$("$1/bin/pg_config" --sharedir)/extension/"
}

home=$root/.server
as_server_user test -x "$root" || home=$DISTILLVQ_RUN
prefix=$home/assert-$PG_MAJOR
if ! is_complete "$prefix"; then
    # The header is needed to compile with -DUSE_VALGRIND.
    [ -f /usr/include/valgrind/valgrind.h ] || install_package valgrind valgrind
    command -v bison >/dev/null || install_package bison bison
    command -v flex >/dev/null || install_package flex flex
    work=$(mktemp -d "${TMPDIR:-/tmp}/assert-server.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "fetching the sources of $package from Debian $suite (23 MB)"
    fetch "$work"
    tar -xf "$work"/*.orig.tar.* -C "$work"
    say "building it with assertions (some minutes, once)"
    build "$work" "$prefix"
fi
take_over_pgvector "$prefix"
printf '%s\n' "$prefix/bin/pg_config"
