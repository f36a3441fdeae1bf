package sim

import (
	"encoding/binary"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

// lieEvery is how often a liar tells a lie of each kind.
const lieEvery = 500 * time.Millisecond

// lie is what a member does who means ill, beside what all do: it holds the network's key,
// and a key of its own.
func (a *agent) lie(e event) {
	if a.now >= a.lying {
		return
	}
	e.at = a.now.Add(lieEvery)
	a.push(e)
	peer := a.agents[a.draw(uint64(len(a.agents)))]
	// It asks everybody for links, by the strongest reason, and says nonsense.
	ask := []byte{1, 1, byte(a.draw(256)), byte(a.draw(256)), byte(mesh.Ring)}
	a.datagram(a.n, peer.n, ask)
	a.datagram(a.n, peer.n, ask[:a.draw(5)])
	if len(a.control.conns) == 0 {
		return
	}
	x := &a.control.conns[a.draw(uint64(len(a.control.conns)))]
	// It tells of links with everybody, of no length, that both want: in each neighbour's
	// ear something else, by the same version.
	rows := make([]discovery.Link, 0, len(a.agents))
	for _, b := range a.agents {
		if b != a && !a.one(4) {
			l := discovery.Link{Peer: b.id, Intent: discovery.Intent{Holds: true, Accepts: true}}
			l.RTT, l.RTTSource, l.RTTAt = time.Microsecond, measure.Measured, a.steady()
			rows = append(rows, l)
		}
	}
	body, err := discovery.AppendLinks(nil, a.steady(), discovery.Facts{}, rows)
	if err != nil {
		panic(err)
	}
	now := a.wall()
	if a.set.Sizes.Whole > 0 {
		a.lieOfAreas(x, now)
	}
	a.inject(x, a.sign(discovery.Record{Kind: discovery.KindLinks, Version: uint64(now) &^ (1<<30 - 1), Body: body}).Bytes())
	// It speaks from the future, which nobody believes,
	a.inject(x, a.sign(discovery.Record{Kind: discovery.KindLinks, Version: uint64(now.Add(time.Hour)), Body: body}).Bytes())
	// and for others, whose keys it hasn't.
	if r, ok := a.store.Record(peer.id, discovery.KindLinks); ok {
		forged := append([]byte(nil), r.Bytes()...)
		binary.BigEndian.PutUint64(forged[34:], uint64(now)) // the version
		a.inject(x, forged)
		a.inject(x, forged[:a.draw(uint64(len(forged)))])
	}
}

// lieOfAreas is what it does in a divided network: it says that it is a gateway, of its area,
// another one, or one of its own, on whose tree everybody is, and has links with all gateways.
func (a *agent) lieOfAreas(x *conn, now overlay.Instant) {
	area := [...]uint32{a.place.home, a.place.home + 1, 1 << 20}[a.draw(3)]
	is := discovery.Area{Number: area, Size: len(a.agents), Member: a.member(area)}
	for _, b := range a.agents[:min(len(a.agents), discovery.MaxLeaves)] {
		if b != a && !a.one(4) {
			is.Tree = append(is.Tree, discovery.Leaf{Agent: discovery.BriefOf(b.id), Label: b.id.Label(), Parent: -1})
		}
	}
	var rows []discovery.Link
	for _, g := range a.beyond().Gates() {
		if g.ID != a.id {
			is.Gateways = append(is.Gateways, discovery.BriefOf(g.ID))
			l := discovery.Link{Peer: g.ID, Intent: discovery.Intent{Holds: true, Accepts: true}}
			l.RTT, l.RTTSource, l.RTTAt = time.Microsecond, measure.Measured, a.steady()
			rows = append(rows, l)
		}
	}
	is.Gateways = is.Gateways[:min(len(is.Gateways), discovery.MaxGateways)]
	body, err := is.Append(nil)
	if err != nil {
		panic(err)
	}
	a.inject(x, a.sign(discovery.Record{Kind: discovery.KindArea, Version: uint64(now), Body: body}).Bytes())
	if body, err = discovery.AppendLinks(nil, a.steady(), discovery.Facts{}, rows); err != nil {
		panic(err)
	}
	a.inject(x, a.sign(discovery.Record{Kind: discovery.KindBackbone, Version: uint64(now), Body: body}).Bytes())
	if gates := a.store.Gateways(); len(gates) > 0 { // and forges what others say
		if r, ok := a.store.Record(gates[a.draw(uint64(len(gates)))], discovery.KindArea); ok {
			forged := append([]byte(nil), r.Bytes()...)
			binary.BigEndian.PutUint64(forged[34:], uint64(now)) // the version
			a.inject(x, forged)
		}
	}
}

// inject sends a record on a connection: a message of one section (discovery/message.go).
func (a *agent) inject(x *conn, record []byte) {
	const version, section = 1, 5
	msg := append([]byte{version, section}, byte(len(record)>>8), byte(len(record)))
	a.stream(a.n, x, append(msg, record...))
}
