#!/usr/bin/env bash
# lint.sh: what must hold of the code before it is tested; run through tools/with_env.sh. Checks whose program is not
# installed and not worth a wait are left out.

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
    say "licences, bans, sources"
    cargo deny --locked check licenses bans sources
else
    say "licences not checked: cargo-deny is not installed"
fi
