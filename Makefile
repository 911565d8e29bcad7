# One line of help per target: make help
GO         ?= go
# All but the race detector's tests is compiled in this one way, so that each package is compiled once.
STATIC      = CGO_ENABLED=0 GOFLAGS="$(GOFLAGS) -trimpath" $(GO)
VERSION    ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
BIN        ?= bin
TESTBIN    ?= $(CURDIR)/.cache/testbin
LDFLAGS     = -s -w -X main.version=$(VERSION)
# Tools, pinned.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.0
COMMANDS    = patchbay patchbayd patchctl
SOURCES     = $(shell git ls-files -co --exclude-standard '*.go') go.mod go.sum
NAMES       = patchbay-ovs patchbay-ipam
PREFIX     ?= /usr/local
# The test cluster's programs, built once per version of their modules and of Go.
E2E         = $(CURDIR)/.cache/e2e/bin
KUBE        = kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl
KUBEVERSION = $(shell sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' test/e2e/kube/go.mod)
GITVERSION  = k8s.io/component-base/version
KUBEFLAGS   = -X $(GITVERSION).gitVersion=$(KUBEVERSION) -X $(GITVERSION).gitMajor=1 -X $(GITVERSION).gitMinor=$(word 2,$(subst ., ,$(KUBEVERSION))) \
	-X $(GITVERSION).gitTreeState=clean -X $(GITVERSION).gitCommit=module
MODULES     = . test/ovscni test/e2e test/e2e/kube test/e2e/containerd

.PHONY: help deps build install demo test sim testbin peers e2e e2ebin bench-e2e cluster bench lint fuzz crash mutants soak clean
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

deps: ## install what is missing on a Debian machine: Open vSwitch, CNI plugins, tools
	@test/deps.sh

build: $(COMMANDS:%=$(BIN)/%) ## static binaries in bin/

$(BIN)/%: $(SOURCES)
	@echo "building $@"
	@$(STATIC) build -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*
	@if [ $* = patchbay ]; then for n in $(NAMES); do ln -sf patchbay $(BIN)/$$n; done; fi

install: build ## programs and kubectl's plugin into $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN)/patchbayd $(BIN)/patchbay $(DESTDIR)$(PREFIX)/bin
	@for n in $(NAMES); do ln -sf patchbay $(DESTDIR)$(PREFIX)/bin/$$n; done
	$(BIN)/patchctl install-plugin $(DESTDIR)$(PREFIX)/bin

demo: deps build ## the main job on one machine, start to end; KEEP=1 leaves it running
	@test/demo/demo.sh

testbin: ## binaries for tests, with the race detector and failpoints
	@mkdir -p $(TESTBIN)
	@$(GO) build -race -tags failpoints -ldflags '-X main.version=$(VERSION)' -o $(TESTBIN)/ ./cmd/patchbayd ./cmd/patchctl
	@$(STATIC) build -o $(TESTBIN)/ ./cmd/patchbay
	@for n in $(NAMES); do ln -sf patchbay $(TESTBIN)/$$n; done

# In a directory of their own: no test but theirs needs them.
peers: ## ovs-cni's plugins for mirrors, which tests chain behind our delegate
	@mkdir -p $(TESTBIN)/ovs-cni
	@cd test/ovscni && for p in producer consumer; do $(STATIC) build -ldflags '-s -w' -o $(TESTBIN)/ovs-cni/ovs-cni-mirror-$$p github.com/k8snetworkplumbingwg/ovs-cni/cmd/mirror-$$p || exit 1; done

# -p 4: tests wait more than they work, and each package has namespaces of its own.
test: deps testbin peers ## every test, under the race detector, on real namespaces, Open vSwitch and etcd
	PATCHBAY_TEST_BIN=$(TESTBIN) $(GO) test -race -count=1 -p 4 -timeout 30m ./...
	$(STATIC) test -count=1 -run TestSimulation ./attach -sim.runs 10000

sim: ## the engine's simulation: make sim RUNS=100000, or SEED=n for one run
	$(STATIC) test -count=1 -timeout 60m -run TestSimulation ./attach -sim.runs $(or $(RUNS),10000) -sim.seed $(or $(SEED),0)

e2ebin: deps build
	@mkdir -p $(E2E)
	@key="$$(cat test/e2e/kube/go.sum test/e2e/kube/main.go test/e2e/containerd/go.sum | sha256sum) $$($(GO) version)"; \
	if [ "$$(cat $(E2E)/key 2>/dev/null)" != "$$key" ]; then \
	  echo "building Kubernetes $(KUBEVERSION) and containerd: about 10 minutes, once"; \
	  (cd test/e2e/kube && $(STATIC) build -ldflags '-s -w $(KUBEFLAGS)' -o $(E2E)/hyper .) && \
	  (cd test/e2e/containerd && $(STATIC) build -ldflags '-s -w' -tags 'no_btrfs no_zfs no_devmapper no_aufs' -o $(E2E)/ \
	    github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 github.com/containerd/containerd/v2/cmd/ctr) && \
	  for n in $(KUBE); do ln -sf hyper $(E2E)/$$n; done && echo "$$key" >$(E2E)/key; fi
	@cd test/e2e && $(STATIC) build -o $(E2E)/ ./pause ./cmd/cluster
	@$(MAKE) -s peers TESTBIN=$(E2E)

# TestSoak has a cluster of its own.
e2e: e2ebin ## Patchbay in a Kubernetes cluster of two real nodes on this machine
	cd test/e2e && $(STATIC) test -count=1 -parallel 4 -timeout 30m -skip '^TestSoak$$' ./cluster .
	cd test/e2e && $(STATIC) test -count=1 -timeout 30m -v -run '^TestSoak$$' .

soak: e2ebin ## pods come and go in such a cluster, with faults, for SOAK=1h; SEED=n; soak.svg and soak.csv show what the daemons need
	cd test/e2e && $(STATIC) test -count=1 -timeout 0 -v -run '^TestSoak$$' . -soak.for $(or $(SOAK),1h) -soak.seed $(or $(SEED),0) -soak.to $(CURDIR)

bench-e2e: e2ebin ## speed and memory in the cluster: RunPodSandbox next to the reference plugins
	cd test/e2e && $(STATIC) test -run '^$$' -bench . -benchtime 1x -count=1 -timeout 20m .

cluster: e2ebin ## such a cluster to play with; make cluster STOP=1 ends it
	@test/e2e/cluster.sh $(if $(STOP),stop,start)

bench: deps build ## speed, as ratios within one run; also bench.json
	@PATCHBAY_TEST_BIN=$(CURDIR)/$(BIN) BENCH_JSON=$(CURDIR)/bench.json $(GO) test -run '^$$' -bench . -benchtime 1x -count=1 -timeout 20m ./test/bench

# Those of the reliability plan, F1 to F10, and the others. One package at a time, as each uses all cores.
FUZZTIME   ?= 60s
fuzz: ## each fuzz test for a minute: make fuzz FUZZTIME=30m
	@for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do for n in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$f); do \
	  echo "$$n in $$(dirname $$f)"; $(GO) test -run '^$$' -fuzz "^$$n\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f) || exit 1; done; done

crash: testbin ## the daemon fails at each of its failpoints in each operation, ROUNDS times
	PATCHBAY_TEST_BIN=$(TESTBIN) $(GO) test -count=1 -timeout 6h -v ./test/crash -crash.rounds $(or $(ROUNDS),1) -crash.seed $(or $(SEED),0)

mutants: ## plants faults, each of which a named test must catch
	@$(STATIC) run ./test/mutants

lint: ## gofmt, direction of imports, go vet, staticcheck, go mod tidy
	@test -z "$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go'))" || { gofmt -l .; echo "run gofmt -w"; exit 1; }
	@test/imports.sh
	@$(STATIC) run ./internal/failpoint/gen -check
	@$(STATIC) run ./test/mutants -check
	$(STATIC) vet ./...
	$(STATIC) vet -tags failpoints ./internal/failpoint
	$(STATIC) run $(STATICCHECK) ./...
	cd test/e2e && $(STATIC) vet ./...
	@for m in $(MODULES); do echo "go mod tidy -diff in $$m"; (cd $$m && $(GO) mod tidy -diff) || exit 1; done

clean: ## remove what was built
	rm -rf $(BIN) .cache bench.json soak.csv soak.svg soak-logs
