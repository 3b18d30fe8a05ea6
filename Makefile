# R58 Fleet. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# nextest where it is installed (its own process for every test, better report), else cargo's own runner.
TEST_RUNNER := $(shell cargo nextest --version >/dev/null 2>&1 && echo "nextest run" || echo "test")
TEST_LOGS := $(CURDIR)/target/test-logs
export FLEET_TEST_PYTHON ?= $(CURDIR)/target/venv/bin/python

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: ## server, broker and this machine as a device; Ctrl-C stops it (DEMO_SECONDS=20 ends by itself)
	@scripts/setup.sh demo
	@scripts/demo.sh

.PHONY: build
build: ## debug binaries
	@scripts/setup.sh build
	cargo build --locked --workspace

.PHONY: test
test: setup fmt lint ## format check, lints and all tests but the slow ones
	cargo build --locked --workspace --bins
	rm -rf $(TEST_LOGS) && mkdir -p $(TEST_LOGS)
	FLEET_TEST_LOGS=$(TEST_LOGS) cargo $(TEST_RUNNER) --locked --workspace
	scripts/check-secrets.sh $(TEST_LOGS) target/nextest/default/junit.xml
	cargo test --locked --workspace --doc --quiet

.PHONY: test-all
test-all: test test-api test-attack deny fuzz test-systemd test-vm test-docker test-arm64 test-packages test-networks ## everything

.PHONY: test-api
test-api: ## requests generated from the OpenAPI document against a real server, as everybody and nobody: SEED=1 FACTOR=1
	@scripts/setup.sh api
	cargo build --locked -p fleetd --bin fleetd
	@SEED='$(SEED)' FACTOR='$(FACTOR)' scripts/test-api.sh

.PHONY: test-attack
test-attack: ## attacks on the broker in millions; make test has them in thousands
	cargo test --locked -p broker --test attack -- --include-ignored

.PHONY: sim-proto
sim-proto: ## simulates both protocols with the real code: STEPS=, SEED=, MIX=, WORLDS=, EVENTS=, BUG=
	cargo build --locked --release -p end-to-end --bin sim-proto
	@STEPS='$(STEPS)' SEED='$(SEED)' MIX='$(MIX)' WORLDS='$(WORLDS)' EVENTS='$(EVENTS)' BUG='$(BUG)' target/release/sim-proto

.PHONY: test-systemd
test-systemd: ## the packages under a systemd that has booted, in a container: PARTS='watched restarts packages older'; needs root (asks sudo)
	@scripts/setup.sh system
	@PARTS='$(PARTS)' scripts/test-systemd.sh

.PHONY: test-vm
test-vm: ## the agent in a virtual machine that reboots and loses its power; needs root (asks sudo)
	@scripts/setup.sh system
	@scripts/test-vm.sh

.PHONY: test-fresh
test-fresh: ## `make demo` and `make test` in a minimal Debian; needs root (asks sudo), up to an hour, and 20 GB
	@scripts/setup.sh system
	@scripts/test-fresh.sh

.PHONY: test-docker
test-docker: ## the Dockerfile and the Compose file, without Docker; needs root (asks sudo)
	@scripts/setup.sh docker
	@scripts/test-docker.sh

.PHONY: deb
deb: ## Debian packages of all three programs for this machine, into target/packages
	@scripts/setup.sh deb
	packaging/deb/build.sh

.PHONY: deb-arm64
deb-arm64: ## the same for ARM64, from any Debian machine
	@scripts/setup.sh deb
	@scripts/setup.sh arm64
	packaging/deb/build.sh --arm64

.PHONY: test-packages
test-packages: deb deb-arm64 ## what is in the packages, what they depend on, how large they are, and what lintian says
	@scripts/test-packages.sh

.PHONY: build-arm64
build-arm64: ## the agent for ARM64 without a container, into target/arm64
	@scripts/setup.sh arm64
	scripts/build-agent.sh --arm64

.PHONY: cross-arm64
cross-arm64: ## the agent for ARM64 in a container, by the tool cross
	@command -v cross >/dev/null || { echo 'cross is missing: cargo install cross --locked; it needs Docker or Podman, and rustup' >&2; exit 1; }
	CARGO=cross CROSS_CONFIG=cross.toml CARGO_TARGET_DIR=target/arm64 scripts/build-agent.sh --target aarch64-unknown-linux-gnu

.PHONY: test-arm64
test-arm64: ## the agent for ARM64 under qemu: its own tests, and as the device of a server on this machine
	@scripts/setup.sh test
	@scripts/setup.sh arm64
	@scripts/test-arm64.sh

.PHONY: test-networks
test-networks: ## networks that lose, delay, forbid and lie, and a thousand agents; needs root (asks sudo); writes docs/networks.md: ONLY=name QUICK=1 SEED=1
	@scripts/setup.sh networks
	@scripts/test-networks.sh $(if $(SEED),--seed $(SEED)) $(if $(QUICK),--quick) $(foreach name,$(ONLY),--only $(name))

.PHONY: bench
bench: ## how fast it is, beside Mosquitto and SQLite; writes docs/bench.md (BENCH='--only 3 --quick --out -' for less)
	@scripts/setup.sh bench
	cargo build --locked --release -p fleetd -p broker -p bench --bins
	scripts/build-agent.sh
	ln -sf ../device/r58-fleet-agent target/release/r58-fleet-agent
	target/release/bench $(BENCH)

.PHONY: setup
setup: ## what the tests need: system packages (asks for root only if some are missing), Python's MQTT client and schemathesis
	@scripts/setup.sh test

.PHONY: fmt
fmt: ## format check
	cargo fmt --all --check

.PHONY: lint
lint: ## clippy on everything, warnings are errors
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@scripts/check-shell.sh

.PHONY: deny
deny: ## licences, bans and sources of every dependency
	@cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked
	cargo deny --locked check licenses bans sources

.PHONY: advisories
advisories: ## known vulnerabilities; needs the advisory database from the network
	cargo deny check advisories

ROUNDS ?= 300
AGENTS ?= 10
CHAPTER ?= 30
.PHONY: chaos
chaos: setup ## kills, cuts, full disks, torn states, restores; then a checker: ROUNDS=300 AGENTS=10 SEED=n CHAPTER=30
	cargo build --locked --workspace --bins
	@$${CARGO_TARGET_DIR:-target}/debug/chaos --rounds $(ROUNDS) --agents $(AGENTS) --chapter $(CHAPTER) $(if $(SEED),--seed $(SEED))

FUZZ_SECONDS ?= 30
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZ_SECONDS (30); needs a nightly toolchain and cargo-fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: clean
clean: ## removes everything that was built
	cargo clean
