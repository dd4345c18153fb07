#!/usr/bin/env bash
# lint.sh: static checks; run through tools/with_env.sh. Optional programs that are not installed are skipped.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
features=(--no-default-features --features "pg$PG_MAJOR")

say "formatting"
cargo fmt --all -- --check
say "clippy"
cargo clippy --locked --workspace --all-targets "${features[@]}" -- --deny warnings
say "documentation"
RUSTDOCFLAGS="--deny warnings" cargo doc --locked --workspace --no-deps --document-private-items "${features[@]}"
if command -v shellcheck >/dev/null; then
    say "scripts"
    shellcheck --external-sources --source-path SCRIPTDIR tools/*.sh .ci/run
fi
if cargo deny --version >/dev/null 2>&1; then
    say "licenses, bans, sources"
    cargo deny --locked check licenses bans sources
else
    say "licenses not checked: cargo-deny is not installed"
fi
