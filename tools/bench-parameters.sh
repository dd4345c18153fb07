#!/usr/bin/env bash
# bench-parameters.sh FOLDER [ONLY]: compares the automatic parameters with a sweep, on a data set and on generated ones (ONLY
# selects one: the folder, words, texts-DIM, or points-DIM), and writes docs/parameters.md.
# The results stay in benches/parameters/, one file per data set.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=$1 only=${2:-}

"$root/tools/with_env.sh" "$root/tools/install.sh"
for set in ${only:-"$folder" words points-2 points-3 texts-16 texts-64 texts-128 texts-200}; do
    say "measuring $set"
    "$root/tools/with_env.sh" cargo run --locked --release --package distillvq-harness --bin parameters -- \
        --set "$set" --results "$root/benches/parameters" --output "$root/docs/parameters.md"
done
