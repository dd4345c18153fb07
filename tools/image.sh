#!/usr/bin/env bash
# image.sh [MAJOR]: builds the container images distillvq:MAJOR (PostgreSQL with pgvector and distillvq) and
# distillvq-extension:MAJOR (the extension's files alone), with Docker, or with buildah where there is no Docker daemon.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
major=${1:-18}

if docker info >/dev/null 2>&1; then
    build=(docker build)
else
    command -v buildah >/dev/null || install_package buildah buildah
    # Docker's format has health checks. Without namespaces of its own, a build runs inside a container too.
    build=(buildah build --format docker --isolation chroot --layers)
fi
say "building distillvq:$major with ${build[0]}"
"${build[@]}" --file docker/Dockerfile --build-arg "PG=$major" --tag "distillvq:$major" . >&2
"${build[@]}" --file docker/Dockerfile --build-arg "PG=$major" --target extension --tag "distillvq-extension:$major" . >&2
