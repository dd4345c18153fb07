#!/usr/bin/env bash
# clean.sh: stops every server of this checkout and removes their files.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
run=$(run_directory)
[ -d "$run" ] || exit 0
for data in "$run"/*/data; do
    [ ! -d "$data" ] || say "stopping and removing the server in ${data%/data}"
    "$root/tools/stop.sh" "${data%/data}"
done
rm -rf "$run"
