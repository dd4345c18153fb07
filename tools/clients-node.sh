#!/usr/bin/env bash
# clients-node.sh: prints the directory of a copy of docs/clients/node with the packages that its examples import. Installs them in the
# first run, and again after a change.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

source=$root/docs/clients/node
home=$root/.server/clients-node
command -v node >/dev/null || install_package node nodejs
command -v npm >/dev/null || install_package npm npm
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ] || fail "the Node examples need Node 20 or later"
if ! cmp --silent "$source/package-lock.json" "$home/node_modules/installed.json"; then
    say "installing the packages of the Node clients into $home"
    rm -rf "$home"
    mkdir -p "$home"
    cp "$source/package.json" "$source/package-lock.json" "$home/"
    npm ci --prefix "$home" --silent --no-audit --no-fund >&2 || fail "cannot install the packages of the Node clients"
    cp "$source/package-lock.json" "$home/node_modules/installed.json"
fi
rm -rf "$home/migrations"
cp -R "$source/." "$home/"
printf '%s\n' "$home"
