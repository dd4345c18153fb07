# Everything needed is found or fetched: see tools/with_env.sh. PG_CONFIG names another server than the private one.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

export PG_CONFIG OLD_PG_CONFIG DESTDIR SPLIT BYTES DOCS

with_env := tools/with_env.sh
pure := --package distillvq-kernels --package distillvq-linalg --package distillvq-model \
	--package distillvq-training --package distillvq-pages --package distillvq-ivf

## demo         load real embeddings, train, build, search, compare; DATA=… takes another data set
.PHONY: demo
demo:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin demo -- "$(or $(DATA),data/wordnet-20k)"

## bench-quality recall of the codes at equal bytes against FAISS, into docs/; DATA=… as above, SPLIT=validation to develop
.PHONY: bench-quality
bench-quality:
	@tools/bench-quality.sh "$(or $(DATA),data/wordnet-20k)"

## bench        recall, speed, size and build time beside pgvector's indexes, into docs/; DATA=… as above, or ROWS=… DIM=…
.PHONY: bench
bench:
	@tools/bench-speed.sh "$(DATA)" "$(ROWS)" "$(DIM)"

## bench-filters searches under filters beside pgvector's hnsw, into docs/filters.md; DATA=… as above
.PHONY: bench-filters
bench-filters:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin filters -- \
		"$(or $(DATA),data/wordnet-20k)" "$(or $(DOCS),docs)/filters.md"

## bench-plans  the planner's choices against measured times, into docs/plans.md
.PHONY: bench-plans
bench-plans:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin plans -- docs/plans.md

## bench-recall target recalls asked for and recalls measured, into docs/; DATA=… as above, and generated sets; ONLY=one of them
.PHONY: bench-recall
bench-recall:
	@tools/bench-recall.sh "$(or $(DATA),data/wordnet-20k)" "$(ONLY)"

## bench-parameters the automatic parameters beside a sweep over others, into docs/; DATA=… as above, and generated sets; ONLY=one of them
.PHONY: bench-parameters
bench-parameters:
	@tools/bench-parameters.sh "$(or $(DATA),data/wordnet-20k)" "$(ONLY)"

## test         all tests: the pure crates, then the extension in private servers
.PHONY: test
test:
	@$(with_env) tools/install.sh
	@echo '==> tests of the pure crates' >&2
	@$(with_env) cargo test --locked --no-fail-fast $(pure)
	@$(with_env) cargo test --locked --package distillvq-ivf --features next-format --test formats
	@echo '==> tests in private servers' >&2
	@$(with_env) cargo test --locked --no-fail-fast --package distillvq-harness -- --test-threads=4

## fixtures     indexes and models of the format that this library writes, into crates/ivf/tests/fixtures (x86-64)
.PHONY: fixtures
fixtures:
	@DISTILLVQ_FIXTURES=1 $(with_env) cargo test --locked --package distillvq-ivf --test fixtures

## test-assert  the tests in servers once more, on a PostgreSQL with assertions that is built the first time (Debian)
.PHONY: test-assert
test-assert:
	@$(with_env) tools/build.sh
	@PG_CONFIG=$$($(with_env) tools/source_server.sh assert) && export PG_CONFIG && $(with_env) tools/install.sh && \
		$(with_env) cargo test --locked --no-fail-fast --package distillvq-harness -- --test-threads=4 && \
		DISTILLVQ_SETTINGS=debug_discard_caches=1 $(with_env) cargo test --locked --package distillvq-harness --test tour

## test-valgrind a tour through everything under valgrind, on the server with assertions
.PHONY: test-valgrind
test-valgrind:
	@$(with_env) tools/test-valgrind.sh

## test-upgrade pg_upgrade of a database with indexes from PostgreSQL 16; OLD_PG_CONFIG=… from a server of yours
.PHONY: test-upgrade
test-upgrade:
	@$(with_env) tools/test-upgrade.sh

## check-versions compile for PostgreSQL 15 to 18 with warnings as errors; VERSIONS="15 17" for some
.PHONY: check-versions
check-versions:
	@$(with_env) tools/versions.sh $(or $(VERSIONS),15 16 17 18)

## soak         crashes, cancels, replication, mixed load, long sessions; DURATION=30 minutes, SEED=1, ONLY=crash,cancel,…
.PHONY: soak
soak:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin soak -- --minutes "$(or $(DURATION),30)" \
		--seed "$(or $(SEED),1)" --only "$(ONLY)" --output benches/soak/last.json --table docs/reliability.md

## lint         formatting, clippy, documentation; licences too where cargo-deny is installed
.PHONY: lint
lint:
	@$(with_env) tools/lint.sh

## build        the extension, into target/pgNN/
.PHONY: build
build:
	@$(with_env) tools/build.sh

## install      build it and install it into the server of PG_CONFIG (which must be given); respects DESTDIR
.PHONY: install
install:
	@tools/install.sh

## uninstall    take it away again
.PHONY: uninstall
uninstall:
	@tools/install.sh --remove

## deb          Debian packages into target/deb/, for the PostgreSQL of PG_CONFIG or 18; VERSIONS="17 18" for others (Debian)
.PHONY: deb
deb:
	@tools/deb.sh $(VERSIONS)

## test-deb     install a package in a pristine Debian with apt and run the quick start there; VERSIONS=17 (Debian, root)
.PHONY: test-deb
test-deb:
	@tools/deb.sh $(or $(VERSIONS),17)
	@for version in $(or $(VERSIONS),17); do tools/test-deb.sh "$$version" || exit; done

## env          print the settings that `cargo test -p distillvq-harness` needs: eval "$(make -s env)"
.PHONY: env
env:
	@$(with_env)

## clean        stop this checkout's servers and remove their files and all build products
.PHONY: clean
clean: clean-servers
	@rm -rf target

## clean-servers stop this checkout's servers and remove their files
.PHONY: clean-servers
clean-servers:
	@tools/clean.sh

## distclean    clean, and remove the fetched server too
.PHONY: distclean
distclean: clean
	@rm -rf .server

## help         this list
.PHONY: help
help:
	@echo 'make TARGET [PG_CONFIG=/path/to/pg_config]'
	@sed -n 's/^## /  /p' Makefile
