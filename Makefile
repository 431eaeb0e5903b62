# What people and CI call. `make` alone lists the targets.

CARGO := scripts/cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup:
	@scripts/setup

.PHONY: run
run: setup ## Build and run a node on localhost:8080, data in ./data; ARGS="--shards 4" adds flags
	@echo "1 of 2: compiling the node, optimised crate by crate (for production: make release)"
	@$(CARGO) build --profile quick --locked --package cloudkv-node
	@echo "2 of 2: running $(TARGET_DIR)/quick/cloudkv-node $(ARGS)"
	@exec $(TARGET_DIR)/quick/cloudkv-node $(ARGS)

.PHONY: release
release: setup ## Build node and router for production, into target/release
	@echo "compiling node and router for production; the last step optimises each program as a whole,"
	@echo "mostly on one core, and takes minutes whenever the code has changed"
	@$(CARGO) build --release --locked --package cloudkv-node --package cloudkv-router
	@echo "built: $(TARGET_DIR)/release/cloudkv-node and cloudkv-router"

.PHONY: tour
tour: ## Run the tour of docs/api.md against the node on localhost:8080
	@scripts/tour

# The binaries that the cluster tests start are built together with the tests: built apart, they
# would get other features of their dependencies, and those would all be compiled twice.
.PHONY: test
test: ## Run all tests
	@scripts/setup test
	@echo "1 of 3: compiling all programs and tests, for debugging"
	@$(CARGO) build --workspace --bins --tests
	@programs=$$($(CARGO) test --workspace --no-run 2>&1 | grep -c '^ *Executable'); \
		echo "2 of 3: running $$programs test programs, many of which start nodes, and the examples in docs"
	@$(CARGO) test --workspace
	@echo "3 of 3: starting the compose files' containers, if there is Docker"
	@if docker info >/dev/null 2>&1 && { docker compose version || docker-compose version; } >/dev/null 2>&1; then \
		$(CARGO) test --workspace --test deploy_compose -- --ignored --nocapture; \
	else \
		echo "skipped: the compose file's test (there is no Docker engine with Compose)"; \
	fi

.PHONY: check
check: setup ## Check formatting and lints, changing nothing (and the dependencies, given cargo-deny)
	cargo fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	scripts/check
	deploy/check.sh
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check bans licenses sources; fi

.PHONY: fix
fix: setup ## Format, and mend what the lints can mend
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

.PHONY: audit
audit: ## Check the dependencies against known vulnerabilities (needs cargo-deny and the network)
	cargo deny --locked check

.PHONY: bench
bench: ## Measure, side by side with webdis and Redis, and with etcd, where they can be installed
	@scripts/setup bench
	$(CARGO) build --release --locked --workspace --bins
	$(TARGET_DIR)/release/cloudkv-bench all
	$(TARGET_DIR)/release/cloudkv-bench region
	$(TARGET_DIR)/release/cloudkv-bench geo
	$(TARGET_DIR)/release/cloudkv-bench router

.PHONY: faults
faults: setup ## Mix all kinds of faults under load and check what clients see; ARGS="--minutes 30 --seed 1"
	$(CARGO) build --release --locked --workspace --bins
	$(TARGET_DIR)/release/cloudkv-faults $(ARGS)

.PHONY: fuzz
fuzz: setup ## Fuzz a target of fuzz/ for ten minutes; ARGS="paths 60"; without ARGS: list them
	@scripts/fuzz $(ARGS)

.PHONY: api-test
api-test: ## Check the API against its OpenAPI document; ARGS="--max-time 1800 --max-examples 1000"
	@scripts/setup test
	@$(CARGO) build --workspace --bins --tests
	CLOUDKV_SCHEMATHESIS_ARGS="$(ARGS)" \
		$(CARGO) test --workspace --test openapi schemathesis -- --nocapture

.PHONY: upgrade-test
upgrade-test: setup ## Roll regions from the build of an older commit to this one and back, under load; OLD=COMMIT
	scripts/build-commit "$(OLD)" $(TARGET_DIR)/older
	$(CARGO) build --release --locked --workspace --bins
	$(TARGET_DIR)/release/cloudkv-faults upgrade --old-binary $(TARGET_DIR)/older/cloudkv-node $(ARGS)

.PHONY: clean
clean: ## Remove all that was built, RocksDB too; not ./data
	cargo clean
