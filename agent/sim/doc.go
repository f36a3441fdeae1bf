// Package sim runs many agents on virtual time in one thread: the cores that real agents
// run, and between them a network that delays, loses and misleads as a seed says. So
// what a thousand agents do together can be seen and checked, and what goes wrong is
// replayed to the bit by its seed.
//
// The control plane is simulated by messages (queue.go, world.go, control.go), with
// the real encodings, stores and choices.
// Faults are drawn by the seed (faults.go).
package sim
