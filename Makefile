# farlan: make demo and make test are all that a fresh machine needs.
#
#   make demo      builds, then tells the product's story on this machine
#   make test      everything that CI runs
#   make bench     frame path, beside bare veth, VXLAN and today's tunnels in the same run; TCP under loss
#   make bench-nat how two agents meet, whatever NAT is in front of them, ROUNDS times each;
#                  ONLY="port-restricted × symmetric" tries those that have this in their names
#   make bench-many     what AGENTS agents on this machine cost each when they are idle
#   make bench-map      that all agents show the map right and soon
#   make bench-chatter  what 200 machines at five sites ask of all in ten minutes, with and without suppression
#   make bench-roam     how soon traffic flows again after a move or a minute's suspension, ROUNDS times
#   make bench-moves    how long a virtual machine is away when it moves, live or unplugged; tinc in the same tests
#   make bench-measure  whether what agents tell of latency, loss and capacity is true, the latter
#                  ROUNDS times each, how soon they see a step or a cut, and what measuring and telling cost,
#                  counted for TRUTHTIME with 10 and 100 agents
#   make bench-stranger what somebody without the key gets, and costs, by PROBES datagrams
#   make bench-predict  how wrong predicted round trips and rates are on real matrices, beside serf's
#                  coordinates, SEEDS times; what predicting costs
#   make bench-mesh     how good the links are that 490 agents choose, how soon and for how long, and
#                  what a choice costs
#   make bench-proxies  two home proxies on one LAN under broadcast, ten minutes at a time: copies that a
#                  sniffer sees when the wide area is cut, one is frozen, killed; a cable between two sites
#   make bench-overlay  how soon frames take a better path in a lab, and another one when it is cut, how
#                  much faster an application runs than over a star, and how soon fifty agents choose links
#   make bench-route    whether fifty pairs come to rest on paths that limit them, 200 times; how the widest
#                  paths between 63 cloud regions compare to the best relays; what paths cost
#   make bench-circuits that circuits of a lab's agents come, break, heal and go in order, whoever is killed
#                       or does wrong meanwhile; ROUNDS kills, SEED for the same again
#   make bench-reserve  that a reserved rate holds on this host's way out beside others' TCP and UDP,
#                  and for a pair of stations between agents, at the sender and at one that relays
#   make sim       SIMSEEDS networks of simulated agents with faults by seed, cold starts, flows, and what
#                  happens without each rule; then SIMSCALE agents at once, above 1000 in areas. FROM=501 COUNT=500 runs
#                  but that many seeds, each a line and at the end a summary, with AGENTS=1000 of so many agents each;
#                  SEED=… AGENTS=… FAULTS=… one again
#   make sim-reserve    RESERVESEEDS times fifty agents that reserve at each other's egresses, with faults by seed:
#                  that none promises more than it has, and nothing is left behind; FROM=501 begins there
#   make fuzz      every fuzz target, FUZZTIME each
#   make soak      SOAKTIME of traffic, loss, MTU changes, new keys and restarts
#   make install   the binary, the systemd unit, the example configuration
#
# What is missing is installed: Debian packages by apt-get (as root), Go tools
# at the versions below into .cache/bin.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 60s
SOAKTIME ?= 1h
ROUNDS   ?= 5
AGENTS   ?= 200
PROBES   ?= 1000000
TRUTHTIME ?= 5m
SEEDS    ?= 5
SIMSEEDS ?= 100
SIMSCALE ?= 1000
RESERVESEEDS ?= 1000
CACHE    := $(CURDIR)/.cache
BIN      := $(CURDIR)/bin/farlan

GOLANGCI_VERSION := v2.15.0
GOLANGCI         := $(CACHE)/bin/golangci-lint-$(GOLANGCI_VERSION)

export PATH         := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export FARLAN_BIN   := $(BIN)
export FARLAN_CACHE := $(CACHE)
export GOFLAGS      := -mod=readonly

ROOT := $(filter 0,$(shell id -u))

.PHONY: build demo test unit e2e race lint bench bench-nat bench-many bench-map bench-moves bench-overlay bench-roam bench-measure bench-mesh bench-predict bench-route bench-stranger fuzz soak sim install uninstall clean deps deps-build bench-proxies bench-chatter sim-reserve test-vlan

build: deps-build
	CGO_ENABLED=0 go build -trimpath -o $(BIN) .

# --- what the machine must have ---------------------------------------------

# program=package, for everything that a test or the demo calls.
DEMO_NEEDS := ip=iproute2 ping=iputils-ping dnsmasq=dnsmasq-base iperf3=iperf3 busybox=busybox-static
TEST_NEEDS := $(DEMO_NEEDS) gcc=gcc ethtool=ethtool qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod dpkg-deb=dpkg miniupnpd=miniupnpd-nftables nft=nftables dhclient=isc-dhcp-client setpriv=util-linux lxc-start=lxc xmllint=libxml2-utils ovs-vswitchd=openvswitch-switch ovsdb-tool=openvswitch-common python3=python3
MOVES_NEEDS := $(TEST_NEEDS) tincd=tinc
BENCH_NEEDS := $(TEST_NEEDS) tincd=tinc edge=n2n fastd=fastd openvpn=openvpn openssl=openssl wireguard-go=wireguard-go wg=wireguard-tools

deps-build:
	@command -v go >/dev/null || { echo "farlan: Go is missing, and Debian's is too old: put Go 1.26 or newer from go.dev/dl into /usr/local/go" >&2; exit 1; }
	@.ci/deps git=git

deps: deps-build
	@.ci/deps $(DEMO_NEEDS)

deps-test: deps-build
	@.ci/deps $(TEST_NEEDS)

deps-bench: deps-build
	@.ci/deps $(BENCH_NEEDS)

deps-moves: deps-build
	@.ci/deps $(MOVES_NEEDS)

.PHONY: deps-test deps-bench deps-moves

$(GOLANGCI):
	@echo "installing golangci-lint $(GOLANGCI_VERSION)" >&2
	@mkdir -p $(CACHE)/bin $(CACHE)/tools
	@GOFLAGS=-mod=mod GOBIN=$(CACHE)/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) \
	  || { echo "farlan: golangci-lint $(GOLANGCI_VERSION) can't be installed: the Go module proxy (go env GOPROXY) must be reachable" >&2; exit 1; }
	@mv $(CACHE)/tools/golangci-lint $@

# --- the two commands of the README -----------------------------------------

demo: deps build
	$(BIN) lab demo

test: deps-test build lint race

# --- what test is made of ----------------------------------------------------

lint: $(GOLANGCI)
	go mod tidy -diff
	$(GOLANGCI) run ./...

# All tests, under the race detector but for those that run in one goroutine alone: of packages
# that start none (arch_test.go sees to that) and share nothing, and of agents in a bubble of
# testing/synctest, which take ten times as long under it; and those that measure what pairs get
# for which something is reserved, by themselves, as it would be the detector that is measured.
# First these; then those that don't mind others beside them on all cores, and one more, as those
# of the DHT, the longest and so the first, wait most of the time, as does the agent's longest one,
# which runs beside them; then one package at a time, as some start dozens of agents. Those of the
# agent and of labs that may run beside each other wait most of the time, so it's six and three at
# once there. As root none may be skipped.
ALONE := farlan/agent/sim farlan/overlay/mesh farlan/overlay/route farlan/overlay/segment farlan/reserve
TOWNS := ^Test(AcrossAreas|ByGateways|BypassesTheDirectPath|ClaimsAcrossAreas|DivideAndJoin|EntryBehindGateway|FarAgentsByName|LiarAmongGateways|SessionsAreFew)$$$
RATES := ^TestReserve(d)?At(TheSender|TheRelay)$$$
LONGEST := ^TestReserveByItself$$
BESIDE := farlan/discovery/p2p farlan/overlay farlan farlan/agent/chart farlan/agent/decide farlan/agent/lab/guest farlan/discovery farlan/discovery/beacon farlan/discovery/portmap farlan/measure farlan/measure/predict farlan/overlay/internal/gcm farlan/overlay/internal/vnet farlan/overlay/lan farlan/overlay/poll farlan/overlay/qemu farlan/reserve/nsi farlan/reserve/nsi/cs farlan/reserve/nsi/provider farlan/reserve/exec farlan/reserve/ovs farlan/reserve/vlan
NOSKIP := $(if $(ROOT),FARLAN_NO_SKIP=1)

race:
	CGO_ENABLED=0 $(NOSKIP) .ci/gotest -trimpath $(ALONE)
	CGO_ENABLED=0 $(NOSKIP) .ci/gotest -trimpath -parallel 1 -run '$(TOWNS)|$(RATES)' farlan/agent
	@$(MAKE) --no-print-directory -j 2 race-beside race-longest
	$(NOSKIP) .ci/gotest -race -parallel 6 -timeout 14m -skip '$(TOWNS)|$(RATES)|$(LONGEST)' farlan/agent
	$(NOSKIP) .ci/gotest -race -p 1 -parallel 3 -timeout 14m $$(go list ./... | grep -vxF "$$(printf '%s\n' $(ALONE) $(BESIDE) farlan/agent)")
	$(if $(ROOT),,@echo "NOT ROOT: the tests that need network namespaces were SKIPPED" >&2)

race-beside:
	$(NOSKIP) .ci/gotest -race -p 3 -timeout 14m $(BESIDE)

race-longest:
	$(NOSKIP) .ci/gotest -race -timeout 14m -run '$(LONGEST)' farlan/agent

.PHONY: race-beside race-longest

unit:
	go test -short ./...

e2e: deps-test build
	FARLAN_NO_SKIP=1 go test -count=1 -v -timeout 30m ./agent/...

bench: deps-bench build
	go test -run '^$$' -bench . -benchmem ./overlay/... ./measure ./discovery
	go test -run '^$$' -bench '^Benchmark(Tunnels|Loss)$$' -benchtime 1x -timeout 180m -v ./agent/bench

bench-nat: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_NAT_ROUNDS=$(ROUNDS) FARLAN_NAT_ONLY="$(ONLY)" go test -count=1 -run '^TestNATMatrix$$' -timeout 2h -v ./agent/lab

bench-many: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_MANY=$(AGENTS) go test -count=1 -run '^TestMany$$' -timeout 1h -v ./agent

bench-map: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -run '^TestMapOfSites$$' -timeout 1h -v ./agent/lab
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -run '^TestTrafficIsShown$$' -timeout 1h -v ./agent

bench-chatter: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -run '^TestChatter$$' -timeout 1h -v ./agent

bench-roam: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_SUSPEND=60s go test -count=$(ROUNDS) -run '^Test(AddressReplaced|ReachedElsewhere|OtherFamily|NATRebound|InterfaceDown|Resume)$$' -timeout 2h -v ./agent

bench-moves: deps-moves build
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -parallel 1 -run '^Test(LiveMigration|PreparedMigration|AbruptMove)$$' -timeout 1h -v ./agent/lab

bench-measure: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_TRUTH=$(TRUTHTIME) FARLAN_TRUTH_ROUNDS=$(ROUNDS) go test -count=1 -run '^TestTruth' -timeout 2h -v ./agent

# The VLANs of circuits, with a kernel that surely has some.
test-vlan: deps-test build
	.ci/in-guest "$$($(BIN) lab guest-kernel)" ./reserve/vlan 8021q bridge veth tun

bench-proxies: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -run '^Test(TwoProxies|Cable|HalvesOfALAN)$$' -timeout 2h -v ./agent

bench-stranger: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_STRANGER=$(PROBES) go test -count=1 -run '^TestStranger$$' -timeout 2h -v ./agent

bench-mesh: deps-build
	FARLAN_MESH=1 go test -count=1 -run 'ColdStart|Noise|LateFacts|Follows|TrafficLinks' -bench . -timeout 1h -v ./overlay/mesh \
		| grep -E 'goal|want|^(Benchmark|---|FAIL|ok|cpu)'

bench-predict: deps-build
	FARLAN_PREDICT=$(SEEDS) go test -count=1 -run 'Truth|Liars' -bench . -timeout 1h -v ./measure/predict

bench-overlay: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -parallel 1 -run '^Test(FramesTakeTheBetterPath|Cut|RingLeavesTheStar)$$' -timeout 1h -v ./agent/lab
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -run '^TestAgentsChooseLinks$$' -timeout 1h -v ./agent

bench-route: deps-build
	FARLAN_ROUTE=1 go test -count 1 -v -timeout 20m -run 'Herd|Lone|Grid' -bench . ./overlay/route

.PHONY: bench-circuits
bench-circuits: deps-test build
	FARLAN_LONG=1 FARLAN_NO_SKIP=1 FARLAN_BIN=$(CURDIR)/bin/farlan go test -count=1 -v -timeout 40m -run 'TestAgents' ./agent/lab

.PHONY: bench-reserve
bench-reserve: deps-test build
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -run '^TestGuarantee' -timeout 1h -v ./reserve/tc
	FARLAN_NO_SKIP=1 FARLAN_LONG=1 go test -count=1 -parallel 1 -run '^TestReserve(d)?(At|ByItself)' -timeout 1h -v ./agent

# What a seed that fails says to run is SEED=… AGENTS=… FAULTS=…. With COUNT the seeds are shared
# out, to several cores or machines; AGENTS has a default that isn't meant for these.
SIMONE    := $(SEED)$(FROM)$(COUNT)
SIMAGENTS := $(if $(SIMONE),$(if $(filter-out file default undefined,$(origin AGENTS)),$(AGENTS)))
SIMTABLE  := $(CURDIR)/bin/sim-goals$(if $(SIMONE),-$(or $(SEED),$(FROM),1))
sim: export FARLAN_SIM_GOALS = $(SIMTABLE)
sim: deps-build
	@mkdir -p bin; rm -f $(SIMTABLE) $(SIMTABLE)-failed
	GOGC=400 GOMEMLIMIT=3000MiB FARLAN_SIM=1 FARLAN_SIM_FROM=$(FROM) FARLAN_SIM_SEEDS=$(or $(COUNT),$(SIMSEEDS)) FARLAN_SIM_SEED=$(SEED) FARLAN_SIM_AGENTS=$(SIMAGENTS) FARLAN_SIM_FAULTS=$(FAULTS) \
	  go test -count=1 -run '$(if $(SIMONE),^TestSeeds$$,.)' -timeout 10h -v ./agent/sim || touch $(SIMTABLE)-failed
	$(if $(SIMONE),,FARLAN_SIM_SCALE=$(SIMSCALE) FARLAN_SIM_AREAS=$(SIMSCALE) FARLAN_SIM_STEPS=30 \
	  go test -count=1 -run "^Test$$([ $(SIMSCALE) -gt 1000 ] && echo Areas || true)Scale$$" -timeout 10h -v ./agent/sim || touch $(SIMTABLE)-failed)
	@cat $(SIMTABLE); ! rm $(SIMTABLE)-failed 2>/dev/null

sim-reserve: deps-build
	GOGC=400 FARLAN_RESERVE_FROM=$(or $(FROM),1) FARLAN_RESERVE_SEEDS=$(RESERVESEEDS) go test -count=1 -run '^TestSeeds$$' -timeout 10h -v ./reserve

soak: deps-test build
	FARLAN_SOAK=$(SOAKTIME) go test -count=1 -run '^TestSoak$$' -timeout 30h -v ./agent

fuzz: build
	.ci/fuzz $(FUZZTIME)

# --- installing ---------------------------------------------------------------

install: build
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/farlan
	install -D -m 0644 packaging/farlan.service $(DESTDIR)/lib/systemd/system/farlan.service
	install -D -m 0644 packaging/farlan.yaml $(DESTDIR)/etc/farlan/farlan.yaml.example
	install -D -m 0755 packaging/libvirt-hook $(DESTDIR)$(PREFIX)/share/farlan/libvirt-hook
	install -D -m 0755 packaging/reserve-example $(DESTDIR)$(PREFIX)/share/farlan/reserve-example
	install -D -m 0644 packaging/nsi-example.yaml $(DESTDIR)$(PREFIX)/share/farlan/nsi-example.yaml
	@echo "next: farlan init, or farlan join with a token, and see README.md" >&2

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/farlan $(DESTDIR)/lib/systemd/system/farlan.service $(DESTDIR)/etc/farlan/farlan.yaml.example $(DESTDIR)$(PREFIX)/share/farlan/libvirt-hook $(DESTDIR)$(PREFIX)/share/farlan/reserve-example $(DESTDIR)$(PREFIX)/share/farlan/nsi-example.yaml

clean:
	rm -rf bin .cache
	go clean -testcache
