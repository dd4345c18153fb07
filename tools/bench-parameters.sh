#!/usr/bin/env bash
# bench-parameters.sh FOLDER [ONLY]: compares the automatic parameters with a sweep, on a data set and on generated ones (ONLY
# selects one: the folder, words, texts-DIM, or points-DIM), and writes docs/parameters.md.
#   METRIC=l2  cosine, l2 or ip, instead of the metric of the data set in FOLDER
#   DOCS=…     another directory for the page and the results
# The results stay in benches/parameters/, or in DOCS/parameters/, one file per data set. The page shows all of them.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=$1 only=${2:-}

"$root/tools/with_env.sh" "$root/tools/install.sh"
for set in ${only:-"$folder" words points-2 points-3 texts-16 texts-64 texts-128 texts-200}; do
    say "measuring $set"
    metric=()
    [ "$set" != "$folder" ] || metric=(${METRIC:+--metric "$METRIC"})
    "$root/tools/with_env.sh" cargo run --locked --release --package distillvq-harness --bin parameters -- \
        --set "$set" "${metric[@]}" --results "${DOCS:-$root/benches}/parameters" --output "${DOCS:-$root/docs}/parameters.md"
done
