#!/usr/bin/env bash
# clients-python.sh: prints a Python that has what docs/clients/requirements.txt names, which is installed the first time.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

home=$root/.server/venv-clients
need_venv "$home" "$root/docs/clients/requirements.txt" "psycopg, SQLAlchemy and pgvector's Python package"
printf '%s\n' "$home/bin/python"
