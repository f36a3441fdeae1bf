// Package bench measures farlan beside today's tunnels, on one machine and in
// one run. It has no code of the program: BenchmarkTunnels, started by 'make
// bench', makes two hosts of network namespaces,
//
//	┌ a ───────────────┐                 ┌ b ───────────────┐
//	│ iperf3, ping     │                 │           iperf3 │
//	│   └ tunnel       │                 │       tunnel ┘   │
//	│       └ u 10.77.0.1 ──── veth ──── 10.77.0.2 u ┘      │
//	└──────────────────┘                 └──────────────────┘
//
// and prints one table. A cell is one tunnel in one round: it has namespaces,
// keys and daemons of its own, so that no tunnel inherits what another one left
// behind (routes, TCP's memory of a destination, a daemon's buffers). Rounds
// go through all tunnels, every second one backwards, so that what slowly
// changes on the machine falls on all of them. Whatever the end, a kill
// included, nothing stays on the machine: see the janitor.
//
// BenchmarkLoss compares TCP over farlan with TCP over the path below it, where
// that loses packets: what a loss costs must be what was lost. The wire between
// its hosts is the wide area of 'farlan lab', with a round trip of 20 ms and
// without offload, so one loss is one datagram:
//
//	┌ a ──────────────┐   ┌ emulator ──────┐   ┌ b ──────────────┐
//	│ iperf3 ─ farlan │   │ 10 ms, MTU 1500│   │ farlan ─ iperf3 │
//	│      └──────┴─ u ───── loses 0.1–3 % ───── u ─┴──────┘      │
//	└─────────────────┘   └────────────────┘   └─────────────────┘
//
// The environment says what is measured:
//
//	FARLAN_BIN        the program under test
//	FARLAN_PEERS      the tunnels, as in veth,vxlan,farlan,farlan@nogso (default: all)
//	FARLAN_ROUNDS     the number of rounds (5; 6 of BenchmarkLoss)
//	FARLAN_SECONDS    of each TCP run (5; 15 of BenchmarkLoss)
//	FARLAN_CONGESTION of BenchmarkLoss, as in cubic,bbr (cubic)
//	FARLAN_BENCH_OUT  a file to which every cell is added as a line of JSON
package bench
