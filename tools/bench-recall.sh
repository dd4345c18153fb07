#!/usr/bin/env bash
# bench-recall.sh FOLDER [ONLY] [PAGE]: measures a data set and generated ones (ONLY selects one: the folder or a generated one), and
# writes docs/PAGE.md: recall, requested and measured, or searches, what an index learns from them.
#   METRIC=l2  cosine, l2 or ip, instead of the metric of the data set in FOLDER
#   DOCS=…     another directory for the page and the results
# The results stay in benches/PAGE/, or in DOCS/PAGE/, one file per data set. The page shows all of them.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=$1 only=${2:-} page=${3:-recall}
case $page in
    recall) generated=(texts mixture noise) ;;
    searches) generated=(products mixture) ;;
    *) fail "there is no page $page" ;;
esac

"$root/tools/with_env.sh" "$root/tools/install.sh"
sets=("$folder" "${generated[@]}")
[ -z "$only" ] || sets=("$only")
for set in "${sets[@]}"; do
    say "measuring $set"
    metric=()
    [ "$set" != "$folder" ] || metric=(${METRIC:+--metric "$METRIC"})
    "$root/tools/with_env.sh" cargo run --locked --release --package distillvq-harness --bin "$page" -- \
        --set "$set" "${metric[@]}" --results "${DOCS:-$root/benches}/$page" --output "${DOCS:-$root/docs}/$page.md"
done
