#!/usr/bin/env bash
# bench-quality.sh FOLDER: trains and measures quantizers of distillvq and FAISS on a data set, and writes docs/quality.md
# and docs/quality.svg. Needs Rust, Python 3.11 or later with venv, and network access in the first run.
#   SPLIT=validation  measures the validation queries instead of the test queries, for development
#   BYTES=16,32       other code sizes than 8,16,24,32,48
#   DOCS=…            another directory for the two files
# The results stay in target/bench-quality/.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

data=${1:?which folder holds the data set?}
split=${SPLIT:-test}
bytes=${BYTES:-8,16,24,32,48}
docs=${DOCS:-$root/docs}
results=$root/target/bench-quality
scripts=$root/benches/quality
python=$root/.venv-bench/bin/python

case $split in
    test | validation) ;;
    *) fail "SPLIT must be test or validation, not $split" ;;
esac
[ -f "$data/documents.npy" ] || fail "$data/documents.npy is missing" "crates/harness/src/data.rs describes the files of a data set."

need_rust
need_bench_python
mkdir -p "$results"
# Threads that wait for each other must not burn the processor that the others need.
export OMP_WAIT_POLICY=passive

"$python" "$scripts/test_measure.py" --quiet

ours() {
    cargo run --quiet --locked --release --manifest-path "$root/Cargo.toml" --package distillvq-training \
        --example quality -- "$data" --split "$split" "$@"
}
say "distillvq"
ours --bytes "$bytes" --output "$results/ours.jsonl"
say "distillvq, one part at a time"
ours --ablation --rows 40000 --output "$results/ablation.jsonl"
say "FAISS"
"$python" "$scripts/faiss_baselines.py" "$data" --split "$split" --bytes "$bytes" --output "$results/faiss.jsonl"
"$python" "$scripts/report.py" "$results/ours.jsonl" "$results/faiss.jsonl" "$results/ablation.jsonl" --output "$docs"
say "written: $docs/quality.md, $docs/quality.svg"
