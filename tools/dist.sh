#!/usr/bin/env bash
# dist.sh: packs the committed sources for a release into target/dist/: a zip archive as PGXN takes it, a tar archive, the Debian
# packages of target/deb/ if there are any of this version, and the checksums of all.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
[ -z "$(git status --porcelain)" ] || fail "there are uncommitted changes" "An archive has only what is committed."
name=distillvq-$(distillvq_version)
rm -rf target/dist
mkdir -p target/dist
git archive --format=zip --prefix="$name/" --output="target/dist/$name.zip" HEAD
git archive --format=tar.gz --prefix="$name/" --output="target/dist/$name.tar.gz" HEAD
cp "target/deb/"postgresql-*-distillvq*_"${name#*-}"-*.deb target/dist/ 2>/dev/null || true
cd target/dist
sha256sum -- * >SHA256SUMS
cat SHA256SUMS
