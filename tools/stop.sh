#!/usr/bin/env bash
# stop.sh DIRECTORY…: stops the server whose data are in DIRECTORY/data, if it runs, and removes DIRECTORY.
# With -w it first waits for the end of its standard input. A test starts it with a pipe, so that the server stops when the test
# ends, for whatever reason.

set -u

command_line() { if [ -r "/proc/$1/cmdline" ]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -o args= -p "$1" 2>/dev/null; fi; }

# is_server PID DIRECTORY: process IDs are reused, so the ID in an old file is not sufficient.
is_server() { command_line "$1" | grep -qF -- "-D $2/data"; }

stop() {
    local directory=$1 pid
    pid=$(head -n 1 "$directory/data/postmaster.pid" 2>/dev/null) || pid=
    if [ -n "$pid" ] && is_server "$pid" "$directory"; then
        kill -QUIT "$pid"
        for _ in $(seq 100); do
            is_server "$pid" "$directory" || break
            sleep 0.1
        done
        ! is_server "$pid" "$directory" || kill -KILL "$pid"
    fi
    rm -rf "$directory"
}

if [ "${1:-}" = -w ]; then
    shift
    cat >/dev/null
fi
for directory in "$@"; do
    stop "$directory"
done
