# make demo    the main job, from nothing: a lab of two servers, deployed
# make test    every test, the end-to-end one included
# make bench   benchmarks
# make         builds bin/fettle
SHELL := /bin/bash
# The Go that .ci/setup fetched, where the machine's own is too old.
export PATH := $(CURDIR)/.cache/go/bin:$(PATH)
export GOTOOLCHAIN := local
TAGS := -tags libvirt_dlopen
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
AGENT := $(addprefix images/agentbin/fettle-agent-linux-,amd64 arm64)
SOURCES := $(shell find . -name '*.go' -not -name '*_test.go' -not -path './.*') go.mod go.sum

.PHONY: all setup demo demo-clean test unit lint e2e bench clean
all: bin/fettle

# The agent must be the same bytes wherever and whenever a commit is built; its
# version and date are those of the last commit that touched it.
AGENT_COMMIT := $(shell git log -1 --format=%h -- agent cmd/fettle-agent 2>/dev/null)
AGENT_TIME := $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd -- agent cmd/fettle-agent 2>/dev/null)
images/agentbin/fettle-agent-linux-%: $(shell find agent cmd/fettle-agent -name '*.go') go.mod go.sum
	CGO_ENABLED=0 GOOS=linux GOARCH=$* go build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.linkVersion=$(AGENT_COMMIT) -X main.linkTime=$(AGENT_TIME)' -o $@ ./cmd/fettle-agent

# Kernels that keep files in large folios map a program's file in pages of 2 MiB
# where its address allows that, and count all of it as the process's memory: 28
# MB more at rest (2026-11-22, Linux 6.18). A start that is not a multiple of 2
# MiB keeps it to the pages that are used.
LINK := -extldflags=-Wl,-Ttext-segment=0x410000
bin/fettle: $(SOURCES) $(AGENT)
	go build $(TAGS) -ldflags '-X main.version=$(VERSION) $(LINK)' -o $@ ./cmd/fettle

setup:
	@.ci/setup demo

DEMO := FETTLE_STORE=$(CURDIR)/.demo/store FETTLE_LABS=$(CURDIR)/.demo/labs FETTLE_LAB=two-gpu

demo: setup
	@$(MAKE) --no-print-directory bin/fettle
	@labs/libvirtd.sh start
	@mkdir -p .demo
	$(DEMO) bin/fettle lab up --site examples/two-gpu
	@echo
	$(DEMO) bin/fettle lab exec gpu-02 -- 'hostname -f; uname -sr; ip -brief address show up; lsblk -o NAME,SIZE,SERIAL,FSTYPE,LABEL; lspci | grep -i display'

demo-clean:
	@if [ -x bin/fettle ] && $(DEMO) bin/fettle lab ls | grep -q '^two-gpu '; then $(DEMO) bin/fettle lab down --yes; fi
	@labs/libvirtd.sh stop
	rm -rf .demo

test:
	@.ci/setup test
	@$(MAKE) --no-print-directory bin/fettle lint unit e2e

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt would change: $$out"; exit 1; fi
	go vet $(TAGS) ./...
	CGO_ENABLED=0 go build -o /dev/null ./cmd/fettle

# The labs package's own tests talk to a libvirt daemon, as the end-to-end ones do.
unit: $(AGENT)
	@labs/libvirtd.sh start
	go test $(TAGS) -race -short -timeout 20m ./...

# Real virtual machines: both firmwares in CI, one machine elsewhere.
e2e: bin/fettle
	@labs/libvirtd.sh start
	go test $(TAGS) -p 1 -timeout 60m ./...

bench:
	go test $(TAGS) -run '^$$' -bench . -benchmem ./...

# Every fuzz target in turn, one processor each: make fuzz FUZZTIME=10m PKG=./pxe
# goes through one package's. What fell is below the package's testdata/fuzz.
.PHONY: fuzz
FUZZTIME := 1m
PKG := ./...
fuzz: $(AGENT)
	@go list $(TAGS) -f '{{.Dir}}' $(PKG) | while read -r dir; do \
		for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing.F).*/\1/p' "$$dir"/*_test.go 2>/dev/null); do \
			echo "$$dir $$f" && (cd "$$dir" && go test $(TAGS) -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -parallel 1 . </dev/null) || exit 1; \
		done; \
	done

# The boot server beside others, on one wire, in rounds: pxe/BENCH.md. The peers
# come from pxe/peers.sh; one that is absent is left out. ROWS=dhcp,http
# measures some rows alone.
.PHONY: bench-pxe
ROWS := all
bench-pxe: bin/fettle
	FETTLE_BENCH=$(ROWS) FETTLE_BENCH_OUT=$(CURDIR)/.cache/bench-pxe.md FETTLE_BIN=$(CURDIR)/bin/fettle go test $(TAGS) ./cmd/fettle -count=1 -timeout 20m -run '^TestBenchPXE$$' -v

# A rack of 1,000 virtual BMCs polled by fettle and by FreeIPMI's ipmipower, in
# rounds; the requests of an inventory; memory: bmc/BENCH.md.
.PHONY: bench-bmc
bench-bmc:
	mkdir -p .cache
	FETTLE_BENCH=1 FETTLE_BENCH_ROUNDS=$(or $(ROUNDS),7) FETTLE_BENCH_OUT=$(CURDIR)/.cache/bench-bmc.md go test $(TAGS) ./bmc -count=1 -timeout 10m -run '^TestBenchBMC$$' -v

# Mirroring and bundles beside aptly, debmirror, apt-mirror, reprepro, curl, tar,
# npm, pip, go and dnf: airgap/BENCH.md. ONLY=pypi measures that alone;
# LARGE=4000000000 also measures the memory of a 4 GB bundle.
.PHONY: bench-airgap
bench-airgap: bin/fettle
	go run ./airgap/bench -fettle bin/fettle -rounds $(or $(ROUNDS),3) -large $(or $(LARGE),0) -only "$(ONLY)"

clean:
	rm -rf bin $(AGENT)

# Images pulled, beside crane and skopeo where they are: airgap/oci/OCI.md.
.PHONY: bench-oci
bench-oci: bin/fettle
	FETTLE_BENCH=1 FETTLE_BIN=$(CURDIR)/bin/fettle go test ./airgap/oci -count=1 -timeout 20m -run '^TestBenchPull$$' -v

# The Debian installer from fettle's mirror, until the base system and a kernel
# are installed: under TCG tens of minutes. FETTLE_E2E_INSTALLER=debootstrap goes
# as far as debootstrap, some 3 minutes.
.PHONY: proof-installer
proof-installer:
	FETTLE_E2E_INSTALLER=full go test $(TAGS) ./cmd/fettle -count=1 -timeout 100m -run '^TestDebianInstaller$$' -v

# The demo on a machine that looks like Ubuntu, from an archive arranged as
# Ubuntu's and made of this machine's Debian packages: ten minutes under TCG.
.PHONY: proof-ubuntu
proof-ubuntu:
	FETTLE_E2E_UBUNTU=both go test $(TAGS) ./cmd/fettle -count=1 -timeout 60m -run '^TestUbuntu$$' -v

# arm64 machines (QEMU's virt, emulated) from firmware to ready, on a rack with
# Secure Boot on and in a lab, with an OS image that is built here: takes
# qemu-user-static and binfmt-support, 10 minutes or, beside other work, 30 for the
# image, and 5 for each machine.
.PHONY: proof-arm64
proof-arm64: bin/fettle
	@labs/libvirtd.sh start
	FETTLE_E2E_ARM64=1 go test $(TAGS) ./cmd/fettle -count=1 -timeout 150m -run '^Test(Rack|Lab)ARM64$$' -v
