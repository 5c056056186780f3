# Everything a contributor does. `make help` lists it.
# PROFILE is the cargo profile: `release` for use, `ci` for tests and CI (optimised a little, with
# every assertion on).
PROFILE ?= release
CARGO ?= cargo

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PROGRAMS := viewservice kvserver testclient kvctl
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
# cargo keeps the artifacts of the profile `dev` in `debug`.
BUILT = $(TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))

.PHONY: help build test run run-vs run-s1 run-s2 run-s3 run-client clean clean-data verify fix bench bench-inprocess scenes failover torture sim model mutants

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

build: ## build all programs into bin/
	$(CARGO) build --workspace --bins --locked --profile $(PROFILE)
	@mkdir -p bin
	@for program in $(PROGRAMS); do \
		cp -f $(BUILT)/$$program bin/$$program.new; mv -f bin/$$program.new bin/$$program; \
	done

# Tests run with the profile `ci`, whatever PROFILE says: without optimisation the programs are too
# slow for their own timings, and with all of it assertions are off. cargo builds the programs that
# they start.
test: ## everything that must be green: unit tests, tests with real processes, test.sh
	$(CARGO) test --workspace --locked --profile ci
	PROFILE=ci ./test.sh

run: build ## a cluster on this machine: view service and three servers, until Ctrl-C
	@bin/testclient cluster

# The four-terminal walk-through: each runs one program in the foreground. Its process id goes to
# logs/, so that `make clean` can stop it.
define foreground
	@mkdir -p logs
	@echo $$$$ >logs/$(1).pid; exec $(2) 2> >(tee -i -a logs/$(1).log >&2)
endef

# The first one founds the cluster; `--new` is never given where one was before.
run-vs: build ## the view service alone, in the foreground
	$(call foreground,viewservice,bin/viewservice --addr localhost:8000$(if $(wildcard data/viewservice-8000),, --new))

run-s1: build ## server 1 alone, in the foreground
	$(call foreground,s1,bin/kvserver --addr localhost:8001 --vs localhost:8000)

run-s2: build ## server 2
	$(call foreground,s2,bin/kvserver --addr localhost:8002 --vs localhost:8000)

run-s3: build ## server 3
	$(call foreground,s3,bin/kvserver --addr localhost:8003 --vs localhost:8000)

run-client: build ## the basic tests, then a put and a get every second
	@bin/testclient --vs localhost:8000

bench: build ## compare with a bare gRPC echo for 3 minutes; writes docs/performance.* (BENCH="--rounds 3 …")
	@bin/testclient bench compare --write docs/performance.md --svg docs/performance.svg $(BENCH)

bench-inprocess: ## measure store and replica alone, inside one process (BENCH="put")
	$(CARGO) bench --locked -p kvserver --bench store --bench replica -- $(BENCH)

# Each scene writes its part of the page, and all are played even when one misses a requirement.
SCENES ?= join memory keys overload neighbours durable
scenes: build ## join, fill, overload, abuse and restart clusters, 12 minutes; writes docs/performance.md (SCENES="join keys")
	@missed=0; for scene in $(SCENES); do \
		bin/testclient scene $$scene --write docs/performance.md || missed=1; \
	done; exit $$missed

failover: build ## fail the primary of a cluster again and again under load (FAILOVER="--fault stop …")
	@bin/testclient failover $(FAILOVER)

torture: build ## kill all of a durable cluster again and again under load (TORTURE="--rounds 200 …")
	@bin/testclient torture --power-cut $(TORTURE)

# One seed alone is for replaying: make sim SEED=7 SIM=--trace
sim: build ## simulate clusters under every fault, in memory and on disks (SEED=1 SEEDS=5000 SIM=--disks)
	@bin/testclient sim --seed $(or $(SEED),1) --seeds $(or $(SEEDS),$(if $(SEED),1,5000)) $(SIM)
	$(if $(SIM),,@bin/testclient sim --disks --seed $(or $(SEED),1) --seeds $(or $(SEEDS),$(if $(SEED),1,5000)))

model: build ## explore small worlds of the protocol, then walk through large ones (MODEL="lease3 --states 9000000")
	@bin/testclient explore $(MODEL)
	$(if $(MODEL),,@bin/testclient explore --walks 3000)

# What may print this much is only the table: the panics in between are meant to happen.
mutants: ## drop the rules of the protocol one by one, and see which seed notices
	$(CARGO) test --locked --quiet --profile ci --workspace --test proofs mutants:: -- --nocapture

verify: ## read-only checks: format, lints, docs, the repository itself
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked --profile ci -- -D warnings
	@# What is left without debug assertions; those of libraries stay, since these are checked already.
	$(CARGO) check --workspace --locked --profile ci --config profile.ci.debug-assertions=false \
		--config 'profile.ci.package."*".debug-assertions=true'
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --profile ci
	$(CARGO) test --workspace --locked --profile ci --test tidy

fix: ## format, and let clippy mend what it can
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged --profile ci
	$(CARGO) fmt --all

clean: ## stop what run targets started, remove programs and logs
	@for file in logs/*.pid; do \
		[ -e "$$file" ] || continue; \
		pid=$$(cat "$$file"); \
		case "$$(readlink "/proc/$$pid/exe" 2>/dev/null || true)" in \
			"$(CURDIR)"/bin/*) echo "stopping $$(basename "$$file" .pid) ($$pid)"; kill -KILL "$$pid" || true ;; \
		esac; \
	done
	rm -rf bin logs

# A directory is held by the process that uses it. It is looked twice, since an answer takes time.
clean-data: ## remove what the run targets have stored, after asking; not while a process uses any of it
	@if [ ! -e data ]; then echo "there is no data"; exit 0; fi; \
	refuse_if_held() { \
		while IFS= read -r -d '' place; do \
			flock --nonblock "$$place" true || { \
				echo "$$place: a process uses it, so nothing was removed: stop it first (\`fuser $$place\` names it)" >&2; \
				exit 1; \
			}; \
		done < <(find -L data -type d -print0 -o -name process.lock -print0); \
	}; \
	refuse_if_held; \
	du -sh data/*; \
	read -r -p "Remove all of this for ever? [y/N] " answer || true; \
	if [ "$${answer:-}" != y ]; then echo "nothing was removed"; exit 0; fi; \
	refuse_if_held; \
	rm -rf data
