#!/usr/bin/env bash
# clients-python.sh [frameworks]: prints the PYTHONPATH for the clients of docs/clients, or for those of the frameworks. Installs the
# packages of their requirements in the first run, and again after a change.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

wanted=$root/docs/clients/requirements${1:+-$1}.txt
need_pip
home=$root/.server/clients-${1:+$1-}$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
if ! cmp --silent "$wanted" "$home/requirements.txt"; then
    say "installing the packages of $(basename "$wanted") into $home"
    rm -rf "$home"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-compile \
        --requirement "$wanted" --target "$home" >&2 ||
        fail "cannot install the packages of the Python clients"
    cp "$wanted" "$home/requirements.txt"
fi
printf '%s\n' "$home"
