// Package lab builds a whole grid on one machine: a home LAN with a router, a
// DHCP server, two ordinary hosts and a proxy; far sites with virtual machines;
// and an emulated wide area between them. Every machine is a network namespace
// (a virtual machine can be a real QEMU guest), every agent a real process.
//
//	home                                              site1, site2, …
//	 host-a  host-b  dhcp  home-proxy                  siteN-vm1 … siteN-vmM
//	   │       │      │       │ eth0 (--lan eth0)           │ eth0 (by DHCP)
//	 ──┴───────┴──────┴───┬───┴── lan0                   ───┴─┬── br0 ── farlan0
//	                 home-router                            siteN
//	                      │ wan0 10.99.0.1                    │ wan0 10.99.N.1
//	                ══════╧═══════════════════════════════════╧══════
//	                   the wide area: delay, jitter, rate, loss, cuts
//
// The proxy's only card is on the home LAN and is its uplink too. A far host
// has no address on the home LAN: what it sends there goes through its kernel
// to wan0, and what its virtual machines send there goes through farlan.
//
// Between a site and the wide area there may be a NAT of any kind, several under
// one another, or a firewall; package nat translates, and the emulator carries.
// Such a lab's addresses in the wide area are ones that programs take for public:
//
//	site1 wan0        site2 wan0        site3 wan0         site4 wan0
//	192.168.101.2     100.64.0.2        192.168.102.2      30.99.4.1
//	     │                 │                 │                  │
//	site1 100.64.0.70      │                 │                  │
//	     └────────┬────────┘                 │                  │
//	      isp 30.99.100.1             site3 30.99.3.1           │
//	══════════════╧══════════════════════════╧══════════════════╧══════
//
// Home's LAN is routed there without a NAT at home, as ever, although its addresses
// are private.
//
// With Options.Circuits the wide area grants circuits, too. Each agent's host has a second
// interface, wan1, on whose VLANs (IEEE 802.1Q) circuits come in; a provider in the wide area
// grants them by NSI, to whom has a certificate of the lab's, and a cross-connect carries them:
//
//	home-proxy              site1                   wan
//	eth0    wan1            wan0    wan1            wan0 10.99.255.1
//	 │       ╎               │       ╎               │
//	═╧═══════╪═══════════════╧═══════╪═══════════════╧══════ the wide area
//	         ╎                       ╎               provider, https on port 8443
//	         ╎                       ╎               │ says what there is to be
//	         ╰╌╌╌ VLANs 100 to 109 ╌╌┴╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ cross-connect
//
// A circuit joins a VLAN of one wan1 to one of another, is policed to its capacity each way (with
// bursts of 50 ms of it) and has no delay of its own; wan1 has the MTU of wan0, and no address.
// The cross-connect is in user space and needs no VLANs of the kernel's; what the agents' hosts
// make of the tagged frames is theirs. It is a process of its own: circuits go on while the
// provider is gone. What the provider granted is kept in a file, from which it goes on when it is
// started again; circuits that it doesn't know then are removed. The files by which agents ask
// it are nsi-SITE.yaml in the lab's folder. Agents behind NATs and firewalls ask what has become
// of their requests, others are called back.
//
// Everything that a lab makes carries its name, is written to its state file
// before it is made, and is removed by Down, also after a crash. Labs with
// different names don't meet.
package lab
