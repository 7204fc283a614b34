# "make" or "make help" lists the targets. Building and testing takes Go alone;
# the linters are pinned in .tools/go.mod and built by Go when first used.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO   ?= go
TOOL := $(GO) tool -modfile=.tools/go.mod

# Of git if there is one, and not of Go's own stamp: that needs a tag to be
# readable, and fails the build in a checkout that belongs to another user.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# Knobs: "make test PKG=./streams/...", "make fuzz FUZZTIME=5m".
PKG      ?= ./...
FUZZTIME ?= 20s
BENCH    ?= .
COUNT    ?= 6
SPAN     ?= 5s
LONG     ?= 1h
VULNDB   ?= ../shared/vulndb.tgz
# What "check" runs under the race detector: all that doesn't start processes,
# which "race" covers as well.
FAST     := $(addsuffix /...,$(addprefix ./,$(wildcard streams dispatcher fallback consumers embedded)))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# What the compiler optimizes for: docs/performance.md. Not named default.pgo, as
# "go test" would then compile everything a second time.
PGO := cmd/backstop/load.pgo

.PHONY: build
build: ## bin/backstop, static
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -pgo=$(PGO) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/backstop ./cmd/backstop

.PHONY: pgo
pgo: build ## a new profile for the compiler, of deliveries and calls on this machine
	bin/backstop bench throughput calls --span 10s --cpuprofile $(PGO)

.PHONY: test
test: ## the tests (PKG=./... to choose)
	$(GO) test -timeout 10m $(PKG)

.PHONY: race
race: ## the tests under the race detector; takes a C compiler
	@command -v "$$($(GO) env CC)" >/dev/null || { echo "make race: Go's race detector takes a C compiler, and there is no $$($(GO) env CC): install gcc or clang" >&2; exit 1; }
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $(PKG)

.PHONY: e2e
e2e: ## the slow tests: whole processes, killed and restarted (build tag e2e, names TestE2E…)
	$(GO) test -tags e2e -run '^TestE2E' -count 1 -timeout 30m $(PKG)

# FAULTS_SEED=N FAULTS_RUNS=1 repeats a run; FAULTS_REPORT=FILE gets a line of
# JSON for each. As root it also makes and fills file systems, and takes their power.
.PHONY: faults
faults: ## whole processes, killed at named points and in every other way, and the books checked (FAULTS_SEED, FAULTS_RUNS, FAULTS_PARALLEL)
	$(GO) test -tags e2e -run '^TestFaults$$' -count 1 -v -timeout 12h -parallel 16 ./cmd/backstop/ledger

# The seed, the samples and what to make of them: docs/reliability.md.
.PHONY: longrun
longrun: ## LONG (1h) of traffic with faults on two replicas, memory and descriptors watched (LONG_SAMPLES=FILE.csv)
	LONG=$(LONG) $(GO) test -tags e2e -run '^TestLong$$' -count 1 -v -timeout 25h ./cmd/backstop/ledger

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s) each
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' $(wildcard cmd streams consumers dispatcher fallback embedded) | \
	while IFS=: read -r file func; do \
		echo "== $${func#func } in $${file%/*}"; \
		$(GO) test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "./$${file%/*}" </dev/null; \
	done

.PHONY: bench
bench: build ## Go benchmarks, then this build against bare HTTP on this machine
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) $(PKG) | tee bin/bench.txt
	$(TOOL) benchstat bin/bench.txt
	bin/backstop bench

# Half an hour on a quiet machine; SCALE="payload sick" measures those alone, and
# draws their pictures anew.
SCALE ?= endpoints sick payload receivers replicas
.PHONY: bench-scale
bench-scale: build bin/nats-server ## the curves of docs/scaling.md, measured and drawn into docs/img (SCALE, SPAN)
	bin/backstop bench $(SCALE) --span $(SPAN) --nats-server bin/nats-server --charts docs/img

.PHONY: demo
demo: build ## three sample apps and traffic; Ctrl-C stops it
	@exec bin/backstop demo

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt ./...

.PHONY: lint
lint: ## vet, formatting and golangci-lint (staticcheck is one of its linters)
	$(GO) vet -tags e2e,faults ./...
	$(GO) vet -tags e2e ./...
	$(TOOL) golangci-lint fmt --diff ./...
	$(TOOL) golangci-lint run ./...

# Built from a mod file of its own, as it has 1,100 packages: two minutes, once.
# Without its service discoveries, which take ten minutes and 3 GB.
bin/promtool: .tools/promtool.mod
	$(GO) build -modfile=.tools/promtool.mod -tags remove_all_sd -o $@ github.com/prometheus/prometheus/cmd/promtool

.PHONY: rules
rules: bin/promtool ## the alert rules and their unit tests, by promtool
	bin/promtool check rules docs/alerts/backstop.rules.yml
	bin/promtool test rules docs/alerts/backstop.rules.test.yml

.PHONY: cluster
cluster: build bin/nats-server ## docker-compose.yml's topology as processes on loopback; Ctrl-C stops it
	@exec .tools/cluster

bin/nats-server: go.mod
	CGO_ENABLED=0 $(GO) build -trimpath -o $@ github.com/nats-io/nats-server/v2

.PHONY: vuln
vuln: ## known vulnerabilities in what we call; offline, from VULNDB
	@if [ ! -f '$(VULNDB)' ]; then \
		echo "make vuln: SKIPPED, there is no $(VULNDB). To ask vuln.go.dev instead: $(TOOL) govulncheck ./..."; exit 0; \
	fi; \
	db=$$(mktemp -d); trap 'rm -rf "$$db"' EXIT; \
	tar -xzf '$(VULNDB)' -C "$$db" --strip-components 1; \
	$(TOOL) govulncheck -db "file://$$db" ./...

.PHONY: check
check: ## all that should pass before a push
	$(MAKE) lint
	$(MAKE) test
	$(MAKE) race PKG='$(FAST)'
	$(MAKE) vuln
	$(MAKE) build

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
