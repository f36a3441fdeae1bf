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
// The environment says what is measured:
//
//	FARLAN_BIN        the program under test
//	FARLAN_PEERS      the tunnels, as in veth,vxlan,farlan,farlan@nogso (default: all)
//	FARLAN_ROUNDS     the number of rounds (5)
//	FARLAN_SECONDS    of each TCP run (5)
//	FARLAN_BENCH_OUT  a file to which every cell is added as a line of JSON
package bench
