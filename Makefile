# One profile and one target directory for everything: `up` and `test` compile once.
# RELEASE=1 builds optimised binaries; ARGS=… goes to the program that is started.

SHELL := /bin/sh
.DEFAULT_GOAL := help
# Programs for networks live in sbin, which a PATH may lack even where the user is root.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
PROFILE := $(if $(RELEASE),--release)
PROFILE_DIR := $(TARGET_DIR)/$(if $(RELEASE),release,debug)
# What `make profile` has seen of a mesh under load, by this compiler. Not asked where it makes no difference.
RUSTC_COMMIT = $(shell PATH="$(PATH)" rustc -vV 2>/dev/null | sed -n 's/^commit-hash: \([0-9a-f]*\)$$/\1/p')
SEEN = $(if $(RUSTC_COMMIT),$(firstword $(wildcard $(abspath $(TARGET_DIR))/profile/$(RUSTC_COMMIT)-*.profdata)))
# Once, however many makes call each other, and gone again in one without RELEASE.
ifneq ($(and $(RELEASE),$(SEEN)),)
override RUSTFLAGS := $(strip $(filter-out -Cprofile-use=%,$(RUSTFLAGS)) -Cprofile-use=$(SEEN))
export RUSTFLAGS
export ISTHMUS_LAID_OUT := by a profile
else
ifneq ($(origin RUSTFLAGS),undefined)
override RUSTFLAGS := $(strip $(filter-out -Cprofile-use=%,$(RUSTFLAGS)))
export RUSTFLAGS
endif
unexport ISTHMUS_LAID_OUT
endif
# Where nobody watches, the lock file has to be right already.
CARGO := cargo
LOCKED := $(if $(CI),--locked)
ISTHMUS := $(PROFILE_DIR)/isthmus
BIN_DIR := $(HOME)/.local/bin
ROOT_TESTS := $(basename $(notdir $(wildcard crates/lab/tests/root_*.rs)))

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target what; do \
	    printf '%-18s %s\n' "$$target" "$$what"; done

.PHONY: up
up: ## start three clusters with the demo shop on this machine
	@scripts/bootstrap run
	@$(MAKE) --no-print-directory compile
	@exec $(ISTHMUS) up -f examples/three-regions $(ARGS)

.PHONY: build
build: ## compile every binary
	@scripts/bootstrap build
	@$(MAKE) --no-print-directory compile

.PHONY: compile
compile:
ifdef RELEASE
	@echo $(if $(SEEN),"laid out by $(SEEN)","without a profile of a mesh under load: \`make profile\` makes one and this a fifth cheaper to run")
endif
	$(CARGO) build $(LOCKED) --workspace --bins $(PROFILE)

# Half an hour from cold. Made anew each time: after much has changed it helps less than it could.
.PHONY: profile
profile: ## watch a mesh under load; release builds from then on are laid out by it
	@scripts/bootstrap bench $(BENCH_DIR)
	@scripts/bootstrap profile
	@$(MAKE) --no-print-directory compile RELEASE=
	@scripts/profile $(TARGET_DIR)

.PHONY: install
install: build ## put the programs into ~/.local/bin
	@mkdir -p $(BIN_DIR)
	@install -m 755 $(ISTHMUS) $(ISTHMUS)-proxy $(BIN_DIR)
	@echo "installed $(BIN_DIR)/isthmus and, beside it, isthmus-proxy"
	@case ":$$PATH:" in *":$(BIN_DIR):"*) ;; *) echo "add $(BIN_DIR) to your PATH";; esac

.PHONY: test
test: ## every test that needs no root
	@scripts/bootstrap test
	@$(MAKE) --no-print-directory compile
	$(CARGO) test $(LOCKED) --workspace $(PROFILE)

# Always the whole workspace: a single package has its dependencies compiled anew, for it needs fewer
# of their features. Tests in network namespaces are test targets `crates/lab/tests/root_*.rs` with `test = false` in
# the manifest: they run by name only.
.PHONY: test-root
test-root: ## tests that need root
	@scripts/bootstrap root
	@test "$$(id -u)" = 0 || { echo "test-root needs root: sudo --preserve-env make test-root" >&2; exit 1; }
	@$(MAKE) --no-print-directory compile
	$(CARGO) test $(LOCKED) --workspace $(PROFILE) $(ROOT_TESTS:%=--test %)

# `verify` and `bench` are binaries of crate lab.
.PHONY: verify
verify: ## the timed points of acceptance: bound and measured value
	@$(MAKE) --no-print-directory lab PROGRAM=verify

# ARGS="--minutes 5" for a short one; what it does is told by ARGS=--help.
.PHONY: soak
soak: ## an hour of every protocol under restarts, faults and arrivals
	@$(MAKE) --no-print-directory lab PROGRAM=soak

# ARGS="--seed 7 --faults 100" goes through something else.
.PHONY: chaos
chaos: ## what the mesh survives, tried on real processes: config written by ten while everything fails
	@$(MAKE) --no-print-directory lab PROGRAM=chaos

# `programs` is one too.
.PHONY: programs
programs: ## PostgreSQL, Redis and etcd through the mesh
	@scripts/bootstrap programs
	@$(MAKE) --no-print-directory lab PROGRAM=programs

# Where the programs of the previous release are.
SKEW_DIR := $(abspath $(TARGET_DIR))/skew

.PHONY: skew
skew: ## the previous release and this one in one mesh
	@scripts/bootstrap run
	@scripts/skew $(SKEW_DIR)
	@$(MAKE) --no-print-directory lab PROGRAM=skew ARGS="--other $(SKEW_DIR)/programs"

# Where peers go that Debian does not have.
BENCH_DIR := $(abspath $(TARGET_DIR))/bench

# ARGS="--only pair-http1,hop" measures some figures only; ARGS=--help has the rest.
.PHONY: bench
bench: ## CPU, latency and memory per request, beside Envoy, HAProxy and nginx
	@scripts/bootstrap bench $(BENCH_DIR)
	$(if $(SEEN),,@$(MAKE) --no-print-directory profile)
	@$(MAKE) --no-print-directory lab PROGRAM=bench RELEASE=1 ARGS="--envoy $(BENCH_DIR)/venv/bin/envoy $(ARGS)"

.PHONY: bench-quick
bench-quick: ## the main figure of bench in two minutes: the pair, beside HAProxy's
	@$(MAKE) --no-print-directory bench \
	    ARGS="--only pair-http1 --connections 64 --who isthmus,haproxy-http2 --duration 4 $(ARGS)"

.PHONY: lab
lab:
	@scripts/bootstrap run
	@$(MAKE) --no-print-directory compile
	@$(PROFILE_DIR)/$(PROGRAM) $(ARGS)

# ARGS=--accept moves the baseline; the commit that does so says why.
.PHONY: counts
counts: ## instructions of what every request pays for, against counts.txt
	@scripts/bootstrap counts
	@$(CARGO) run $(LOCKED) -q --package xtask -- counts $(ARGS)

# SECONDS=… for each target, TARGETS="…" for some of them only.
.PHONY: fuzz
fuzz: ## look for input that a decoder does not stand
	@scripts/bootstrap fuzz
	@scripts/fuzz $(or $(SECONDS),60) $(TARGETS)

.PHONY: smuggling
smuggling: ## 20,000 odd requests on each of eleven servers: what proxy and server read differently
	@scripts/bootstrap smuggling
	@$(MAKE) --no-print-directory lab PROGRAM=smuggling

# ARGS=NAME for one of them. Each one compiles the control plane anew.
.PHONY: mutants
mutants: ## break the control plane in eleven ways, for the simulated meshes to notice
	@scripts/bootstrap build
	@$(CARGO) run $(LOCKED) -q --package xtask -- mutants $(ARGS)

# ARGS="--suite grpc" runs one of the suites: grpc, websocket, h2spec, http.
.PHONY: conformance
conformance: ## clients and servers of others (gRPC, WebSocket, HTTP) through a mesh
	@scripts/bootstrap conformance
	@$(MAKE) --no-print-directory compile
	@conformance/install $(TARGET_DIR)/conformance
	@PYTHONDONTWRITEBYTECODE=1 $(TARGET_DIR)/conformance/venv/bin/python conformance/run.py \
	    --isthmus $(ISTHMUS) --build $(TARGET_DIR)/conformance --pages docs/conformance $(ARGS)

.PHONY: lint
lint: ## rustfmt and clippy; a warning is an error
	@scripts/bootstrap lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

.PHONY: reference
reference: ## write docs/reference anew from the code
	@scripts/bootstrap build
	UPDATE_REFERENCE=1 $(CARGO) test $(LOCKED) --package isthmus-telemetry --test reference
	$(CARGO) run $(LOCKED) -q --package isthmus-manifest --example reference > $(TARGET_DIR)/resources.md
	mv $(TARGET_DIR)/resources.md docs/reference/resources.md
