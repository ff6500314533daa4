# `make help` lists the targets. Each makes sure of its tools first, with
# scripts/setup: as root that installs what is missing, otherwise it says what.

GO          ?= go
PREFIX      ?= /usr/local
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME    ?= 30s
SOAKTIME    ?= 10m
BENCH       ?= .
COUNT       ?= 1
VM_RUN      ?= .
VM_JOBS     ?= 2
PKG         ?= ./...

# A Go that is too old fetches the one that go.mod asks for.
export GOTOOLCHAIN ?= auto
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
# Whatever builds on other systems and word sizes; s390x is big-endian.
VET_FOR     := linux/amd64 linux/arm64 linux/386 linux/s390x freebsd/amd64 darwin/arm64 windows/amd64

LDFLAGS     := -s -w -X main.version=$(VERSION)

.PHONY: all
all: build

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  VERSION=$(VERSION) PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)'
	@echo '  PKG=$(PKG) FUZZTIME=$(FUZZTIME) SOAKTIME=$(SOAKTIME) BENCH=$(BENCH) COUNT=$(COUNT) VM_RUN=$(VM_RUN) VM_JOBS=$(VM_JOBS)'

.PHONY: build
build: ## the static binary build/blkbak
	@scripts/setup build
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o build/blkbak ./cmd/blkbak

.PHONY: build/vm.test
build/vm.test:
	@mkdir -p build
	CGO_ENABLED=0 $(GO) test -c -o $@ ./test/vm

.PHONY: test
test: ## every test: hermetic, against other programs, in a virtual machine
	@scripts/setup test
	BLKBAK_REQUIRE_TOOLS=1 $(GO) test -timeout 20m $(PKG)
	scripts/vm-test --jobs $(VM_JOBS)

.PHONY: test-unit
test-unit: ## the hermetic tests: no root, network, device or foreign program
	@scripts/setup build
	$(GO) test -short $(PKG)

.PHONY: test-vm
test-vm: ## the tests that need root and devices, in a virtual machine (VM_RUN=regex)
	scripts/vm-test --run '$(VM_RUN)' --jobs $(VM_JOBS)

.PHONY: race
race: ## the tests under the race detector
	@scripts/setup race
	CGO_ENABLED=1 $(GO) test -race $(PKG)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@scripts/setup build
	@scripts/fuzz '$(FUZZTIME)'

.PHONY: lint
lint: ## formatting, vet on several systems, staticcheck, go.mod
	@scripts/setup lint
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	@for target in $(VET_FOR); do \
		echo "vet $$target"; \
		GOOS=$${target%/*} GOARCH=$${target#*/} CGO_ENABLED=0 $(GO) vet ./... || exit 1; \
	done
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...
	@if command -v shellcheck >/dev/null; then \
		echo shellcheck; shellcheck -e SC2016 scripts/* .ci/run; \
	fi

.PHONY: vulncheck
vulncheck: ## known vulnerabilities in what is linked in (asks a server)
	@scripts/setup lint
	$(GO) run $(GOVULNCHECK) ./...

.PHONY: bench
bench: ## Go benchmarks (BENCH=regex COUNT=n)
	@scripts/setup bench
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) $(PKG)

.PHONY: soak
soak: ## the tests that go on for SOAKTIME each, here and in a virtual machine
	@scripts/setup test
	BLKBAK_SOAK=$(SOAKTIME) $(GO) test -count 1 -timeout 0 -v -run '^TestSoak' $(PKG)
	BLKBAK_SOAK=$(SOAKTIME) scripts/vm-test --timeout 86400 --run "^Test(PowerCut)?Soak"

.PHONY: demo
demo: ## back up, change and roll back a real LVM volume, in a virtual machine
	@scripts/setup demo
	@$(MAKE) -s build
	@rm -rf build/demo && mkdir -p build/demo/in
	@cp build/blkbak build/demo/in/
	@truncate -s 512M build/demo/disk
	@scripts/vm --mem 1024 --timeout 900 --in build/demo/in --disk build/demo/disk -- test/demo.sh
	@rm -rf build/demo

.PHONY: cover
cover: ## coverage of the hermetic and interop tests, in build/cover.html
	@scripts/setup build
	@mkdir -p build
	$(GO) test -coverprofile build/cover.out -coverpkg ./... $(PKG)
	$(GO) tool cover -html build/cover.out -o build/cover.html
	$(GO) tool cover -func build/cover.out | tail -n 1

.PHONY: install
install: build ## the binary, its manual page and its completions, below PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 755 build/blkbak $(DESTDIR)$(PREFIX)/bin/blkbak
	build/blkbak man >$(DESTDIR)$(PREFIX)/share/man/man1/blkbak.1
	build/blkbak completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/blkbak
	build/blkbak completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_blkbak
	build/blkbak completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/blkbak.fish

.PHONY: clean
clean: ## remove build/
	rm -rf build
