// Package reserve asks the network underneath for capacity, on behalf of stations that know
// nothing of it. It is pure: it decides what is asked of whom, and says so; drivers (reserve/tc
// and others, see Driver) do it, and the agent calls them and carries messages.
//
// # Words
//
// A reservation promises a rate to a Flow: the frames from one station to another, or all from
// one agent to another, and of the other direction if that is asked for. It is made of segments:
// the egress of the agent that the flow comes from, that of each relay on its way, those of the
// other direction, and an outside circuit. A segment is what one driver of one agent grants,
// until its end. The agent that the flow comes from coordinates the reservation; the others, and
// it itself for its own part, serve its segments. Each agent has a Broker that does both (a
// bandwidth broker, RFC 2638, but nobody's are above another's).
//
// A line is two stations, or agents. What nobody declared one of its two ends coordinates, by a
// tenure of 30 s that the other end yields to it (lines.go). Each tenure, and each start of an
// agent, has a higher epoch, and requests of an older one are refused: so nothing of before a
// crash, and nobody who was taken over from, changes what is now. The end that doesn't coordinate
// claims, too, if frames wait at its side, and so tells the other one what rate it wants.
//
// What to do about a flow, and why, is decided each second from what it sent and what waited
// (demand.go, decide.go); Explain has it in words.
//
// # States
//
//	Requested → Held → Committed → Activating → Active ⇄ Degraded → Releasing → Released
//
// These are a segment's, at the agent that serves it, and the reservation's, at its coordinator,
// which has reached a state when all its segments have; see State for the others. A segment is
// Active while its driver sees that it works (Grant.Up), a reservation when moreover a probe of
// the overlay came back by it. Only then do frames take it (Way). When probes fail or a driver
// says that it is down, frames take the ordinary way at once, and go on to if it isn't mended
// within half a minute: then what is left is given back. A reservation is never in the way of
// traffic.
//
// # Messages
//
//	coordinator                     agents on the way
//	ask: rate, lease             →  admission (admission.go), journal, driver holds
//	                             ←  answer: Held; or Rejected, and what is free
//	commit, activate             →  journal, driver commits, then lets packets be served
//	                             ←  answers: Committed; Activating; Active when it is up
//	probes over the way, frames take it
//	renew: rate, lease           →  journal, driver changes and renews it
//	status, each 10 s            →
//	                             ←  answer, also unasked when something changed
//	release                      →  journal, driver gives it back; is repeated until confirmed
//	                             ←  answer: Released
//
// Own egress is held first and an outside circuit last; they are committed the other way round.
// If one refuses, all are released, and asked once more at the least that any has free, if that
// is half at least; then again after 1, 2, 4 … 30 minutes. Requests are repeated until they are
// answered, answers repeat the request's number; what comes twice, late or in another order does
// nothing. Nothing is atomic across agents: what is wrong lasts until its end at most.
//
// # Who owns what
//
// An agent alone decides about its egress, whoever asks: all reservations together may take 0.7
// of what it carries, and keep 0.9 when it turns out to carry less; quotas bound each owner, peer
// and station. Who asks must be an end of the flow, which the agent knows by the session. A
// segment belongs to the agent that asked for it: nobody else can change it, but who takes over
// its line ends it. It lives until the end that its coordinator renewed it for.
//
// What drivers hold is owned by the journal (entry.go): an entry is safe before the call is made
// that it covers. At the start and each minute drivers list what they hold, and what the journal
// doesn't know is given back (reconcile.go).
//
// # Faults
//
//   - A driver doesn't answer, or not sensibly: Unknown. Its Status is asked until it tells, or,
//     if there isn't even a handle to ask by, its List. It is never guessed.
//   - A release isn't confirmed: Orphan. It is repeated for ever, 30 s apart at most, shown, and
//     counts for admission. It is over at its end: of external drivers by this agent's clock, of
//     others when they no longer list it.
//   - An agent crashes: at its start it takes up the journal. Segments are Unknown, and go on as
//     their driver has them; reservations that were committed everywhere go on in a new epoch,
//     and are probed again; all others are released. No driver is asked to hold anything before
//     it listed what it holds.
//   - A coordinator is gone: what isn't Active ends after a minute of silence, the rest at its end.
//   - Another agent is gone: its part is silent for a minute, or probes fail for half of one: the
//     reservation is Lost, released, and asked for again.
//   - A driver can't change or renew what it granted: another reservation is made, and takes the
//     first one's place when it works. If there isn't room for both, the first ends at its end,
//     and another is asked for then.
//   - The journal can't be written: nothing more is asked of drivers or told to others, and what
//     there is ends by itself.
//   - An egress carries less than it did: the newest segments are given back.
//   - A journal's end is torn: see Journal.Torn.
//
// # Running one
//
// A Broker is called by one goroutine. It takes events, each noted only: Receive (a message of a
// peer), Result (of a call), Notice (a driver's event), Probed, Observe (each second), Request and
// Release (of owners), SetCapacity, Written. After one or more of them the agent calls Tick and
// Flush, and does what it says in the order of Output's fields:
//
//	b := reserve.NewBroker(now, config, reserve.ReadJournal(file)) // and Reap of each driver
//	for {
//		next := b.Tick(now)
//		out := b.Flush()
//		if out.Changed { publish(out.Ways) }               // before the calls: these may take a way's ground
//		if len(out.Journal) > 0 { journal <- out }         // append, fsync, then b.Written(out.Entry)
//		for _, c := range out.Calls { calls[c.Driver] <- c } // one worker a driver: reserve.Do, then b.Result
//		for _, m := range out.Messages { send(m.To, m.Bytes) }
//		for _, p := range out.Probes { probe(p) }          // then b.Probed
//		now = waitUntil(next)                              // or for the next event, which it hands to b
//	}
//
// Calls that the journal doesn't cover yet stay in the Broker until Written says that it does;
// the agent only has to keep the order. A worker makes its driver's calls one after the other, each
// within Call.Within, and always has a Result; a driver's Reap is called by its worker, too, at the
// start and each minute. When the journal is long, Snapshot takes its place by an atomic rename. A
// probe is an overlay probe to Flow.To and back by the given relays, sent with Mark. Config.Hop is
// called from within Tick and others, and must not block.
package reserve
