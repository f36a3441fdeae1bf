// Package mesh decides which links of the overlay exist: each agent for itself, from
// facts that all have, so that no controller is needed. It is pure: the epoch is an
// argument, what is random is a hash, and what agents must agree on are integers.
//
// Once in an epoch (10 s) an agent builds a View of the facts and asks its Chooser:
//
//	v, err := mesh.NewView(facts)                    // all distances, and the potential Φ
//	wishes := chooser.Step(epoch, v, mesh.Local{Candidates: measured, Rates: rates})
//	held := chooser.Held(nil)                        // what it says of its links, for its facts
//
// Up to 16 agents have a link each with each. Above, every agent holds three: one with
// the next agent in a ring by hash, which keeps all in one piece whatever the agents
// think (duties.go), and two that it chooses (response.go); it has twelve at most, with
// those that others chose. More are held for the peers with whom it has most traffic
// (traffic.go) and where the operator wants them. Every wish carries its Reason.
//
// Choosing goes in turns: in three of ten epochs, by hash, an agent may move. A move is
// the exchange of one link for another, the best response among the candidates that the
// agent has measured, by the potential that all share:
//
//	Φ = Σ weight(i, j) · distance(i, j) + price · links
//
// It is made only if it saves 0.5 % of the agent's own part of Φ with the new link thought
// 3 % dearer than measured. Both grow to four times as much in places for links that are
// old, whatever links had them: so good links are soon found, noise moves little, and
// what doesn't change comes to rest. First the new link is
// made and the old one declared leaving; all agents reckon without it from then on.
// In the next epoch, when all moves of the last one are in the facts, the agent reckons
// again: the old link goes if Φ falls by that, otherwise the new one does and nothing has
// happened. So every move that is accepted lowers Φ, and moving ends. A link that is
// up stays for six epochs, and one that went stays away as long.
//
// Why turns: if all moved at once, half of the exchanges would be in vain, as others change
// the same ways at the same time, and up to 30 % of the links be made in one epoch.
//
// Whom to measure View.Nominees says: by predicted costs, the links that would lower Φ most
// are better candidates than the nearest agents, and nearly as good as everybody.
//
// The idea of best responses is EGOIST's (Smaragdakis et al., CoNEXT 2008), whose agents
// look after their own distances only, and one after the other.
//
// All distances are kept in one matrix (paths.go). What one link more or one less would
// change is found by looking at those pairs alone that have an end on each side of it
// (whatif.go).
package mesh
