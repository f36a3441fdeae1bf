// Package sim runs many agents on virtual time in one thread: the cores that real agents
// run, and between them a network that delays, loses and misleads as a seed says. So
// what a thousand agents do together can be seen and checked, and what goes wrong is
// replayed to the bit by its seed.
//
//	v := sim.Check(sim.Setting{Seed: 7, Agents: 50, Faults: sim.All, Calm: time.Minute, Trouble: 2 * time.Minute})
//	fmt.Println(v.Agreed, v.Wrong)
//
// What agents know, they know by records: a discovery.Store each, connected as in the agent
// (control.go), with the real encodings and signatures; each record is verified once for
// all, and agents with equal records share what is computed from them. Links are kept by
// decide.Links, by requests in datagrams (meshing.go); ways are those of overlay/route and
// decide.Routes.
//
// Time is true time; agents have clocks of their own that are wrong (agent.go). Events are
// handled in the order of their times and numbers (queue.go). Messages by connections come
// in order, datagrams may get lost, come late, or twice (sim.go); the world says how far
// agents are from each other, and what doesn't pass (world.go). What goes wrong is drawn
// from the seed before the run begins (faults.go, liar.go).
//
// Frames are simulated one by one, to see that none loops or comes twice (frames.go), and
// data as rates, as what flows do to each other by choosing shows only so (fluid.go).
// Check looks at what must be so after trouble (check.go, agree.go), Course at how a
// network comes to rest (quality.go).
//
// Large networks are divided into areas (areas.go). So that one of ten thousand agents can be
// looked at, agents may start as if they had run for long (warm.go), and ways are compared with
// the best from some of them only (sample.go).
//
// Who talks with whom is made up, too, and shifts: links follow it (talk.go). What all of
// it costs is counted by what it is for (spend.go).
//
// What is not simulated: probes, of which only what they tell is (paths are up or down, and
// measured a little wrong); coordinates, whose errors are drawn; sessions; addresses; paths
// that pass only smaller datagrams than before, as nothing here would notice: packets of
// control connections have 1,280 bytes at most and may be fragmented (discovery/p2p),
// requests a few dozen, and data has rates but no datagrams.
package sim
