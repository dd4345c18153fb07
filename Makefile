# tools/with_env.sh finds or fetches what the targets need. PG_CONFIG selects another server than the private one.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

export PG_CONFIG OLD_PG_CONFIG DESTDIR SPLIT BYTES DOCS METRIC

with_env := tools/with_env.sh
pure := --package distillvq-kernels --package distillvq-linalg --package distillvq-model \
	--package distillvq-training --package distillvq-pages --package distillvq-ivf

## demo         load real embeddings, train, build, search, and compare with pgvector; DATA=… for another data set, METRIC=l2, TUNED=1
.PHONY: demo
demo:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin demo -- "$(or $(DATA),data/wordnet-20k)" \
		$(if $(METRIC),--metric "$(METRIC)") $(if $(TUNED),--tuned-hnsw)

## bench-quality recall of the codes compared with FAISS at equal size; writes docs/quality.md; DATA=…, SPLIT=validation for development
.PHONY: bench-quality
bench-quality:
	@tools/bench-quality.sh "$(or $(DATA),data/wordnet-20k)"

## bench        recall, speed, size, and build time compared with pgvector's indexes; writes docs/performance.md; DATA=…, or ROWS=… DIM=…; METRIC=l2
.PHONY: bench
bench:
	@tools/bench-speed.sh "$(DATA)" "$(ROWS)" "$(DIM)"

## bench-filters filtered searches compared with pgvector's hnsw; writes docs/filters.md; DATA=…
.PHONY: bench-filters
bench-filters:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin filters -- \
		"$(or $(DATA),data/wordnet-20k)" "$(or $(DOCS),docs)/filters.md"

## bench-plans  the planner's choices compared with measured times; writes docs/plans.md
.PHONY: bench-plans
bench-plans:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin plans -- docs/plans.md

## bench-recall requested and measured recall; writes docs/recall.md; DATA=… in addition to generated data sets; ONLY=one data set
.PHONY: bench-recall
bench-recall:
	@tools/bench-recall.sh "$(or $(DATA),data/wordnet-20k)" "$(ONLY)"

## bench-searches recall before and after an index learns from searches; writes docs/searches.md; DATA=… in addition to generated data sets; ONLY=one data set
.PHONY: bench-searches
bench-searches:
	@tools/bench-recall.sh "$(or $(DATA),data/wordnet-20k)" "$(ONLY)" searches

## bench-parameters automatic parameters compared with a sweep; writes docs/parameters.md; DATA=… in addition to generated data sets; ONLY=one data set
.PHONY: bench-parameters
bench-parameters:
	@tools/bench-parameters.sh "$(or $(DATA),data/wordnet-20k)" "$(ONLY)"

## test         all tests: the crates in memory, then the extension in private servers
.PHONY: test
test:
	@$(with_env) tools/install.sh
	@echo '==> tests of the crates in memory' >&2
	@$(with_env) cargo test --locked --no-fail-fast $(pure)
	@$(with_env) cargo test --locked --package distillvq-ivf --features next-format --test formats
	@echo '==> tests of the tools' >&2
	@PYTHONPATH=$$(tools/clients-python.sh) python3 tools/test_import_data.py --quiet
	@echo '==> tests in private servers' >&2
	@$(with_env) cargo test --locked --no-fail-fast --package distillvq-harness --package distillvq-server-tests -- --test-threads=4

## test-clients the clients of docs/clients that `make test` does not run: LangChain, LlamaIndex, Haystack, and Node (350 MB of packages)
.PHONY: test-clients
test-clients:
	@$(with_env) tools/install.sh
	@$(with_env) cargo test --locked --package distillvq-server-tests --test docs -- --ignored --test-threads=1

## fixtures     indexes and models of the format that this library writes, into crates/ivf/tests/fixtures (x86-64)
.PHONY: fixtures
fixtures:
	@DISTILLVQ_FIXTURES=1 $(with_env) cargo test --locked --package distillvq-ivf --test fixtures

## test-assert  the server tests on a PostgreSQL with assertions, which the first run builds (Debian)
.PHONY: test-assert
test-assert:
	@$(with_env) tools/build.sh
	@PG_CONFIG=$$($(with_env) tools/source_server.sh assert) && export PG_CONFIG && $(with_env) tools/install.sh && \
		$(with_env) cargo test --locked --no-fail-fast --package distillvq-harness --package distillvq-server-tests -- --test-threads=4 && \
		DISTILLVQ_SETTINGS=debug_discard_caches=1 $(with_env) cargo test --locked --package distillvq-server-tests --test all_features

## test-valgrind all features once under valgrind, on the server with assertions
.PHONY: test-valgrind
test-valgrind:
	@$(with_env) tools/test-valgrind.sh

## test-upgrade pg_upgrade of a PostgreSQL 16 database with indexes; OLD_PG_CONFIG=… for your own old server
.PHONY: test-upgrade
test-upgrade:
	@$(with_env) tools/test-upgrade.sh

## check-versions compile for PostgreSQL 15 to 18 with warnings as errors; VERSIONS="15 17" for a selection
.PHONY: check-versions
check-versions:
	@$(with_env) tools/versions.sh $(or $(VERSIONS),15 16 17 18)

## soak         crashes, cancels, replication, mixed load, long sessions; DURATION=30 minutes, SEED=1, ONLY=crash,cancel,…
.PHONY: soak
soak:
	@$(with_env) tools/install.sh
	@$(with_env) cargo run --locked --release --package distillvq-harness --bin soak -- --minutes "$(or $(DURATION),30)" \
		--seed "$(or $(SEED),1)" $(if $(ONLY),--only "$(ONLY)") --output benches/soak/last.json --table docs/reliability.md

## lint         formatting, clippy, documentation; licenses if cargo-deny is installed
.PHONY: lint
lint:
	@$(with_env) tools/lint.sh

## build        the extension, into target/pgNN/
.PHONY: build all
build all:
	@$(with_env) tools/build.sh

## install      build and install into the server of PG_CONFIG (required); respects DESTDIR
.PHONY: install
install:
	@tools/install.sh

## uninstall    remove the extension from the server of PG_CONFIG
.PHONY: uninstall
uninstall:
	@tools/install.sh --remove

## deb          Debian packages in target/deb/, for the PostgreSQL of PG_CONFIG or 18; VERSIONS="17 18" for others (Debian)
.PHONY: deb
deb:
	@tools/deb.sh $(VERSIONS)

## test-deb     install a package with apt in a fresh Debian and run the quick start; VERSIONS=17 (Debian, root)
.PHONY: test-deb
test-deb:
	@tools/deb.sh $(or $(VERSIONS),17)
	@for version in $(or $(VERSIONS),17); do tools/test-deb.sh "$$version" || exit; done

## dist         archives of the committed sources and checksums, into target/dist/
.PHONY: dist
dist:
	@tools/dist.sh

## image        container images distillvq:18 and distillvq-extension:18, with Docker or buildah; VERSIONS=17 for others
.PHONY: image
image:
	@tools/image.sh $(VERSIONS)

## test-image   build the images and run the quick start with each (root)
.PHONY: test-image
test-image:
	@$(with_env) tools/test-image.sh

## env          print the environment for `cargo test -p distillvq-server-tests`: eval "$(make -s env)"
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

## distclean    clean, and remove the fetched server
.PHONY: distclean
distclean: clean
	@rm -rf .server

## help         this list
.PHONY: help
help:
	@echo 'make TARGET [PG_CONFIG=/path/to/pg_config]'
	@sed -n 's/^## /  /p' Makefile
