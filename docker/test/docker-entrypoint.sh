#!/usr/bin/env bash
# Stands in for the entrypoint of the image postgres in tests/images: makes the database and runs the initialization scripts at the
# first start.
set -euo pipefail

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

install -d -m 3775 -o postgres -g postgres /var/run/postgresql
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install -d -m 700 -o postgres -g postgres "$PGDATA"
    as_postgres initdb --auth=trust >/dev/null
    as_postgres pg_ctl --wait --silent --log="$PGDATA/first.log" --options="-c listen_addresses=''" start
    for script in /docker-entrypoint-initdb.d/*.sql; do
        as_postgres psql -X -v ON_ERROR_STOP=1 -f "$script"
    done
    as_postgres pg_ctl --wait --silent stop
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"
