#!/usr/bin/env bash
# bench-speed.sh [FOLDER] [ROWS] [DIM]: compares distillvq with pgvector's indexes in one private server, on a data set or on
# ROWS generated vectors of DIM dimensions, and writes docs/performance.md and a plot of all data sets measured so far.
#   ONLY="distillvq;pgvector hnsw"  measures only these methods
#   SECONDS_A_POINT=3  duration of the measurement of each setting
#   METRIC=l2  cosine, l2 or ip, instead of the metric of the data set
#   DOCS=…     another directory for the page, the plot, and the results
# The results stay in benches/speed/results/, or in DOCS/results/, one file per data set. The page shows all of them.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=${1:-} rows=${2:-} dim=${3:-}
docs=${DOCS:-$root/docs}
results=${DOCS:+$DOCS/results}
results=${results:-$root/benches/speed/results}
timing=$root/target/timing.so
python=$root/.venv-bench/bin/python

if [ -n "$rows" ]; then
    source=(--rows "$rows" --dim "${dim:-768}")
    name=generated-$rows-${dim:-768}
else
    folder=${folder:-$root/data/wordnet-20k}
    source=(--data "$folder")
    name=$(basename "$(realpath "$folder")")
fi

# Each metric has its own file.
name=$name${METRIC:+-$METRIC}

need_bench_python
mkdir -p "$results"
"$root/tools/with_env.sh" "$root/tools/install.sh"
say "building the library with timers"
# shellcheck disable=SC2016 # expanded where PG_CONFIG is known
"$root/tools/with_env.sh" bash -c '. tools/lib.sh; need_server "$PG_CONFIG"; cargo build --locked --release --package distillvq \
    --no-default-features --features "pg$PG_MAJOR,timing" --target-dir target'
cp "$root/target/release/libdistillvq.so" "$timing"
"$root/tools/with_env.sh" cargo run --locked --release --package distillvq-harness --bin bench -- \
    "${source[@]}" ${ONLY:+--only "$ONLY"} ${METRIC:+--metric "$METRIC"} --seconds "${SECONDS_A_POINT:-3}" --output "$results/$name.jsonl" \
    --timing "$timing"
"$python" "$root/benches/speed/report.py" "$results"/*.jsonl --output "$docs"
say "written: $docs/performance.md"
