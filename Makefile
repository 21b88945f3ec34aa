# The two commands: `make demo` shows what Trefoil does, `make test` runs everything that must pass.
# Both install what is missing, leave the system as they found it, and can be run again and again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# Go and cargo are found where their installers put them, too.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
CARGO ?= cargo
CARGO_BUILD_JOBS ?= 2
export CARGO_BUILD_JOBS
PREFIX ?= /usr/local
# Says what a command takes: `$(TOLD) NAME COMMAND...`.
TOLD := $(CARGO) run --quiet -p trefoil-suite -- --told

BINARY := target/x86_64-unknown-linux-gnu/release/containerd-shim-trefoil-v2
# The same, built beside the guest's programs, with which it has most crates in common.
BESIDE_GUEST := target/guest/x86_64-unknown-linux-gnu/release/containerd-shim-trefoil-v2

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' Makefile

.PHONY: prerequisites
prerequisites: ## Install the packages that are missing (as root)
	@tests/rig/prerequisites.sh

# What cargo made of other people's crates in a clone before, if this one is fresh.
.PHONY: crates
crates:
	@tests/suite/crates.sh take

.PHONY: build
build: crates ## Build the shim
	$(CARGO) build --release

.PHONY: install
install: build ## Install the shim under PREFIX by its three names, and as trefoil, the author's tool
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/containerd-shim-trefoil-v2
	ln -sf containerd-shim-trefoil-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-trefoil-vm-v2
	ln -sf containerd-shim-trefoil-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-trefoil-confidential-v2
	ln -sf containerd-shim-trefoil-v2 $(DESTDIR)$(PREFIX)/bin/trefoil

.PHONY: install-guest
install-guest: ## Install what microVMs boot under PREFIX (minutes the first time)
	kernel=$$($(CARGO) run --quiet -p trefoil-guest --bin guest -- kernel | sed -n 1p); \
	image=$$($(CARGO) run --quiet -p trefoil-guest --bin guest -- image | sed -n 1p); \
	agent=$$($(CARGO) run --quiet -p trefoil-guest --bin guest -- agent | sed -n 1p); \
	install -D -m 0644 "$$kernel/vmlinux" $(DESTDIR)$(PREFIX)/share/trefoil/vmlinux; \
	install -D -m 0644 "$$image" $(DESTDIR)$(PREFIX)/share/trefoil/initramfs; \
	install -D -m 0755 "$$agent" $(DESTDIR)$(PREFIX)/share/trefoil/agent

.PHONY: install-confidential
install-confidential: install-guest ## Install what confidential pods boot as well
	kernel=$$($(CARGO) run --quiet -p trefoil-guest --bin guest -- kernel --with confidential | sed -n 1p); \
	image=$$($(CARGO) run --quiet -p trefoil-guest --bin guest -- image --confidential | sed -n 1p); \
	install -D -m 0644 "$$kernel/vmlinux" $(DESTDIR)$(PREFIX)/share/trefoil/confidential-vmlinux; \
	install -D -m 0644 "$$image" $(DESTDIR)$(PREFIX)/share/trefoil/confidential-initramfs

.PHONY: uninstall
uninstall: ## Remove all that the install targets have put under PREFIX
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,containerd-shim-trefoil-v2 containerd-shim-trefoil-vm-v2 \
		containerd-shim-trefoil-confidential-v2 trefoil)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/trefoil/,vmlinux initramfs agent \
		confidential-vmlinux confidential-initramfs)
	[ ! -d $(DESTDIR)$(PREFIX)/share/trefoil ] || rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/share/trefoil

.PHONY: demo
demo: prerequisites crates ## Run a pod in a private containerd, on one screen
	@$(CARGO) run --quiet -p trefoil-guest --bin guest -- shim >/dev/null
	@$(TOLD) 'build of the demo' $(CARGO) build -p trefoil-tests
	@TREFOIL_SHIM=$(CURDIR)/$(BESIDE_GUEST) $(CARGO) run --quiet -p trefoil-tests -- demo

.PHONY: check
check: prerequisites crates ## Run what is asked before each commit, in minutes
	@$(CARGO) run --quiet -p trefoil-suite -- --check

.PHONY: test
test: prerequisites crates ## Run everything that must pass
	@$(CARGO) run --quiet -p trefoil-suite

.PHONY: bench
bench: prerequisites build ## Measure against containerd's own shim with runc, and against QEMU's microvm
	@$(CARGO) run --quiet -p trefoil-tests -- bench
	@$(CARGO) run --quiet -p trefoil-tests -- vmm bench

.PHONY: bench-count
bench-count: prerequisites build ## Count the instructions of a guest's boot, by QEMU and our VMM, and of pods
	@$(CARGO) run --quiet -p trefoil-tests -- count
	@$(CARGO) run --quiet -p trefoil-tests -- vmm count
	@$(CARGO) run --quiet -p trefoil-tests -- bench --handler trefoil-vm --n 3
	@$(CARGO) run --quiet -p trefoil-tests -- bench --handler trefoil-confidential --n 3

.PHONY: fuzz
fuzz: prerequisites ## Run the fuzz targets: ten million executions or 30 minutes each
	@$(CARGO) run --quiet -p trefoil-tests -- fuzz

.PHONY: up
up: prerequisites build ## Start a private containerd to try things on by hand
	@$(CARGO) run --quiet -p trefoil-tests --bin rig -- up

# A shell in a machine with a real KVM, or one command: make test-vm CMD='ls -l /dev/kvm'
# OPTIONS: --cpus N --memory MIB --disk SIZE|PATH --hot PATH --read-only --icount --systemd --limit S
.PHONY: test-vm
test-vm: prerequisites ## A shell in a machine with a real KVM (or CMD='...', OPTIONS='...')
	@$(CARGO) run --quiet -p trefoil-tests --bin test-vm -- $(OPTIONS) $${CMD:+"$$CMD"}

.PHONY: deny
deny: ## Check licences, advisories and duplicates
	@tests/suite/deny.sh
