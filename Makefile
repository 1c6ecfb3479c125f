# vm-msi: `make run` shows the main job, `make test` passes the tests, `make help` lists the rest.

HOST    ?= 6.12
HOSTS   := 6.12 6.1
CARGO   ?= cargo
TOOLS   := $(CURDIR)/target/tools
# Tools run for seconds: compiling them quickly is worth more than their speed.
INSTALL := CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --debug --locked --quiet --root $(TOOLS)
DENY    := $(TOOLS)/bin/cargo-deny
# The version whose rustdoc JSON format (57) is that of rustc 1.95.
API_TOOL := $(TOOLS)/bin/cargo-public-api
API_VERSION := 0.52.0
API_RUSTC := 1.95
API     := resources/public-api.txt
MSRV    := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
FEATURES := $(shell sed -n '/^\[features\]/,/^\[dependencies\]/s/^\([a-z-]*\) = .*/\1/p' Cargo.toml)
MUTANTS := $(TOOLS)/bin/cargo-mutants
# What `make mutants` mutates, all of it or the k-th of n parts (SHARD=k/n), and what has to notice.
FILES   ?= src/**/*.rs
SHARD   ?=
NOTICE  ?= --lib --test=spec --test=domain --test=ims --test=idle --test=state --test=model --test=pool
TEST    := $(CARGO) test --release --workspace
T       ?= 60
TURNS   ?= 4
GUEST_DISK := $(CURDIR)/target/guest.raw
comma   := ,
# Shown by `vmm --version`. Nothing outside of a git checkout.
export VMM_BUILD := $(shell git describe --always --tags 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help build build-tests run guest test test-fast test-kvm test-lab test-linux test-distribution test-arm64 examples api check-api spec-table compare matrix bench bench-guest instructions check fuzz mutants lab provision clean $(HOSTS:%=test-linux-on-%)

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

run: build  ## boot a Linux guest with two passed-through devices and watch its vectors grow; HOST=6.1 or DEVICE=<bdf>
	$(CARGO) run --release --quiet -p demo -- $(if $(DEVICE),--device $(DEVICE),--host $(HOST))

# The image is built once. What the guest writes stays in its copy, which may be deleted at any time.
guest: build  ## boot Debian from a disk to its login prompt, with a network and an NVMe disk; HOST=6.1, or DEVICE='<bdf>' on this machine
	test -e $(GUEST_DISK) || { cp --sparse=always $$(target/release/lab distribution) $(GUEST_DISK).new && mv $(GUEST_DISK).new $(GUEST_DISK); }
	$(if $(DEVICE),resources/guest/debian.sh $(GUEST_DISK) $(DEVICE),target/release/lab run --kernel $(HOST) --memory 4096 \
		--device nvme,size=256M --device qemu:virtio-blk-pci,drive=debian \
		--qemu-arg=-drive --qemu-arg=if=none$(comma)id=debian$(comma)format=raw$(comma)file=$(GUEST_DISK) -- \
		sh -c 'modprobe virtio_blk && exec resources/guest/debian.sh /dev/vda 0000:01:00.0')

test: test-fast examples test-kvm test-lab test-linux test-distribution  ## run every test that this machine can run, fast ones first

test-fast:  ## unit tests, the specification's sentences, the domain, the reference model, the command line
	$(TEST) --lib --bins
	$(TEST) --doc
	$(TEST) --test spec --test domain --test ims --test idle --test state --test model --test pool --test docs --test usage

# Where /dev/kvm does not open, the same tests run in the lab host, with shorter storms: it is slow there.
IN_LAB_RUN := $(if $(shell test -w /dev/kvm && echo here),,$(CURDIR)/target/release/lab run --memory 8192 --)
IN_LAB  := $(if $(IN_LAB_RUN),STORM_SIGNALS=20000 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(IN_LAB_RUN)")

test-kvm: build-tests  ## small guests on real KVM: bare metal for the crate, every end of a run for the VMM
	$(IN_LAB) $(TEST) --test kvm_msix --test seccomp --test run

# Each says what it shows, and fails where it does not see it. The device is in the lab host, on both kinds of host.
examples: build-tests  ## the four embedders under examples/, on this machine's KVM and in the lab host
	target/release/examples/own_routing
	$(IN_LAB_RUN) target/release/examples/device_model
	$(IN_LAB_RUN) target/release/examples/stable_eventfds
	for kernel in 6.12 6.1; do \
		target/release/lab run --kernel $$kernel --vfio --device ivshmem,vectors=64 -- \
			target/release/examples/vfio_device 0000:01:00.0 || exit 1; \
	done

test-lab: build-tests  ## the lab host itself, on both kernels
	$(TEST) --test lab -- --test-threads=1

# A lab host leaves half of two CPUs idle, so both run side by side.
test-linux: build-tests  ## Linux guests with passed-through devices, on hosts with and without dynamic MSI-X; DEVICE='<bdf> <bdf>' for this machine's own too
	$(MAKE) --no-print-directory --jobs=2 $(HOSTS:%=test-linux-on-%)
	$(if $(DEVICE),LINUX_TESTS_DEVICES="$(DEVICE)" $(TEST) --test linux -- --test-threads=1 \
		--ignored this_machine --skip every_kernel --skip hundred_thousand)
	$(foreach device,$(DEVICE),target/release/demo --device $(device) --guest 6.12 && \
		target/release/demo --device $(device) --guest 6.1 &&) true

$(HOSTS:%=test-linux-on-%): SHELL := /bin/bash
$(HOSTS:%=test-linux-on-%): test-linux-on-%:
	set -o pipefail; $(TEST) --test linux host_$(subst .,_,$*):: -- --test-threads=1 2>&1 | sed -u 's/^/$*: /'

# Only root can build the image.
test-distribution: build-tests  ## Debian from a disk, with a network and a passed-through disk
	$(TEST) --test distribution -- --test-threads=1

# qemu-user is slow, so the random tests have fewer cases. A chroot needs root or user namespaces, which not every
# machine has: `make test` does without.
test-arm64:  ## the crate's tests that need no KVM, built for arm64 and run under qemu-user; fetches 400 MB once
	@echo "test-arm64: skipped, because they are for x86-64: the shuttle tests, tests/kvm_msix, tests/seccomp, tests/linux"
	resources/arm64/run.sh env MODEL_CASES=200 POOL_CASES=200 cargo test --locked -p vm-msi --lib \
		--test spec --test domain --test ims --test idle --test state --test model --test pool

build:
	$(CARGO) build --release --workspace

# All that the tests run, with the features that they need of the crate. Nothing is compiled for a second set of features.
build-tests:
	$(CARGO) build --release --workspace --lib --bins --examples --tests

# With the profile of the tests: what build scripts make of C is then made once.
check: $(DENY)  ## formatting, lints, documentation, licences and sources
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --all-features -- -D warnings
	@for features in "" $(FEATURES); do \
		echo "check: clippy with --no-default-features --features '$$features'"; \
		$(CARGO) clippy --release -p vm-msi --lib --quiet --no-default-features --features "$$features" -- -D warnings || exit 1; \
	done
	@if rustup toolchain list 2>/dev/null | grep -q '^$(MSRV)'; then \
		$(CARGO) +$(MSRV) check --workspace --all-features; \
	else echo "check: NOT compiled with Rust $(MSRV), which is not installed: clippy has checked the standard library's versions"; fi
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --all-features --no-deps
	@$(MAKE) --no-print-directory check-api
	$(DENY) --all-features check --hide-inclusion-graph bans licenses sources
	@$(DENY) --all-features check --hide-inclusion-graph advisories || \
		{ test ! -d ~/.cargo/advisory-dbs/*/.git && echo "check: advisories NOT checked: their database cannot be reached"; }

# Everything that an embedder can name, one item a line. Impls of derived and automatic traits are left out.
LIST_API = RUSTC_BOOTSTRAP=1 $(API_TOOL) --package vm-msi --all-features -sss

api: $(API_TOOL)  ## write the list of the crate's public items, resources/public-api.txt
	$(LIST_API) >$(API).new || { rm -f $(API).new; exit 1; }
	mv $(API).new $(API)

spec-table:  ## write the list of the specification's sentences and their tests, docs/specification.md
	SPEC_TABLE=write $(CARGO) test --release --test docs the_table_of_the_specification

# The tool reads the rustdoc JSON of one compiler only. A change of the list is an intended one once `make api` has written it.
check-api:
	@if ! rustc --version | grep -q '^rustc $(API_RUSTC)\.'; then \
		echo "check: the public items are NOT compared: that needs rustc $(API_RUSTC), and this is $$(rustc --version)"; \
	elif ! $(MAKE) --silent --no-print-directory $(API_TOOL); then \
		echo "check: the public items are NOT compared: cargo-public-api $(API_VERSION) cannot be installed"; \
	else \
		mkdir -p target && $(LIST_API) >target/public-api.txt || exit 1; \
		diff -u $(API) target/public-api.txt || \
			{ echo "check: the public items have changed: \`make api\` writes the new list"; exit 1; }; \
	fi

$(API_TOOL):
	@echo "check: building cargo-public-api, once (some minutes)"
	$(INSTALL) cargo-public-api --version $(API_VERSION)

$(DENY):
	@echo "check: building cargo-deny, once (some minutes)"
	$(INSTALL) cargo-deny

bench-guest: build  ## boot, growth, moves and disk reads in pairs of Linux guests, ours beside Debian's QEMU, in the lab host; TURNS=4, HOST=6.1
	target/release/demo bench-guest --host $(HOST) --turns $(TURNS)

matrix: build  ## each kind of device, doing work that is checked, ours beside QEMU's: target/matrix.md; HOST=6.1
	target/release/demo matrix --host $(HOST) --write target/matrix.md

compare: build  ## boot time and lost interrupts, ours beside Debian's QEMU, in the lab host
	target/release/demo bench-guest boot --turns 6
	target/release/demo compare-losses --host 6.1 --rings 3000 --qemu-rings 3000

bench:  ## what interrupts cost on this machine's KVM, beside the raw system calls
	$(CARGO) bench -p benchmarks

instructions:  ## instructions that the crate takes for what guests do, counted by valgrind and held against checked-in bounds
	$(CARGO) bench -p benchmarks -- instructions

# With the stable toolchain: fuzz/run.sh has the flags.
fuzz:  ## fuzz each target for T seconds (60) with AddressSanitizer, and print a table; TARGETS='bus cli'
	CARGO="$(CARGO)" fuzz/run.sh $(T) $(TARGETS)

# Exit codes 2 and 3 say that mutants were missed or ran out of time. The race tests need minutes, and shuttle's more.
mutants: $(MUTANTS)  ## change the crate's code in small ways and see whether its tests notice; FILES='src/domain/*.rs', SHARD=0/8
	MODEL_CASES=$${MODEL_CASES:-500} POOL_CASES=$${POOL_CASES:-100} CARGO_TARGET_DIR=$(CURDIR)/target/mutants \
		PATH="$(TOOLS)/bin:$$PATH" $(CARGO) mutants -p vm-msi --output target $(if $(SHARD),--shard $(SHARD)) \
		$(foreach file,$(FILES),--file '$(file)') $(NOTICE:%=-C=%) -- -- --skip races:: --skip shuttle_tests:: --skip threads:: \
		|| test $$? -eq 2 -o $$? -eq 3
	@! sed -E 's/:[0-9]+:[0-9]+:/:/' target/mutants.out/missed.txt | sort -u | grep -vxFf resources/mutants.txt || \
		{ echo "mutants: no test notices these: add one, or say why none can in resources/mutants.txt"; exit 1; }

$(MUTANTS):
	@echo "mutants: building cargo-mutants, once (some minutes)"
	$(CARGO) install cargo-mutants --locked --quiet --root $(TOOLS)

lab: build  ## a shell in an emulated Linux host with KVM and VFIO; HOST=6.1 for one without dynamic MSI-X
	target/release/lab shell --kernel $(HOST)

provision: build  ## fetch what the lab host needs: packages, kernels, modules
	target/release/lab provision

clean:  ## remove what was built; what was fetched too
	$(CARGO) clean
