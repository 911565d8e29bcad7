# One line of help per target: make help
GO         ?= go
VERSION    ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
BIN        ?= bin
TESTBIN    ?= $(CURDIR)/.cache/testbin
LDFLAGS     = -s -w -X main.version=$(VERSION)
# Tools, pinned.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.0
COMMANDS    = patchbay patchbayd patchctl
SOURCES     = $(shell git ls-files -co --exclude-standard '*.go') go.mod go.sum
NAMES       = patchbay-ovs patchbay-ipam

.PHONY: help deps build demo test testbin bench lint fuzz clean
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

deps: ## install what is missing on a Debian machine: Open vSwitch, CNI plugins, tools
	@test/deps.sh

build: $(COMMANDS:%=$(BIN)/%) ## static binaries in bin/

$(BIN)/%: $(SOURCES)
	@echo "building $@"
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*
	@if [ $* = patchbay ]; then for n in $(NAMES); do ln -sf patchbay $(BIN)/$$n; done; fi

demo: deps build ## the main job on one machine, start to end; KEEP=1 leaves it running
	@test/demo/demo.sh

testbin: ## binaries for tests, with the race detector and failpoints
	@mkdir -p $(TESTBIN)
	@$(GO) build -race -tags failpoints -ldflags '-X main.version=$(VERSION)' -o $(TESTBIN)/ ./cmd/patchbayd ./cmd/patchctl
	@CGO_ENABLED=0 $(GO) build -o $(TESTBIN)/ ./cmd/patchbay
	@for n in $(NAMES); do ln -sf patchbay $(TESTBIN)/$$n; done

test: deps testbin ## every test, under the race detector, on real namespaces, Open vSwitch and etcd
	PATCHBAY_TEST_BIN=$(TESTBIN) $(GO) test -race -count=1 -timeout 20m ./...

bench: deps build ## speed, as ratios within one run; also bench.json
	@PATCHBAY_TEST_BIN=$(CURDIR)/$(BIN) BENCH_JSON=$(CURDIR)/bench.json $(GO) test -run '^$$' -bench . -benchtime 1x -count=1 -timeout 20m ./test/bench

fuzz: ## each fuzz test for a minute
	@for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do for n in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' $$f); do \
	  $(GO) test -run '^$$' -fuzz "^$$n\$$" -fuzztime 60s ./$$(dirname $$f) || exit 1; done; done

lint: ## gofmt, go vet, staticcheck, go mod tidy
	@test -z "$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go'))" || { gofmt -l .; echo "run gofmt -w"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags failpoints ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod tidy -diff

clean: ## remove what was built
	rm -rf $(BIN) .cache bench.json
