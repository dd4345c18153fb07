#!/usr/bin/env bash
# bench-recall.sh FOLDER [ONLY]: compares requested with measured recall, on a data set and on generated ones (ONLY selects one:
# the folder, texts, mixture, or noise), and writes docs/recall.md.
# The results stay in benches/recall/, one file per data set.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=$1 only=${2:-}

"$root/tools/with_env.sh" "$root/tools/install.sh"
for set in ${only:-"$folder" texts mixture noise}; do
    say "measuring $set"
    "$root/tools/with_env.sh" cargo run --locked --release --package distillvq-harness --bin recall -- \
        --set "$set" --results "$root/benches/recall" --output "$root/docs/recall.md"
done
