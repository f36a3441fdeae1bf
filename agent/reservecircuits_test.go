package agent

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
	"farlan/reserve"
)

// TestCircuitHasNoRelays: frames that go by a circuit go to its other end, although the agent's are passed
// on by another one ordinarily.
func TestCircuitHasNoRelays(t *testing.T) {
	m := newMirror(t)
	r := withRelay(m)
	tell(m.n, r.id, m.n.self, m.peer.id)
	m.n.sw.Stations.Learn(m.n.now(), back, m.peer.place())
	m.n.peers[m.peer.id] = m.peer
	m.peer.state = measure.Up
	ordinary := m.n.detourOf([]overlay.AgentID{m.n.self, r.id, m.peer.id}, nil, assumedMTU)
	if ordinary == nil || ordinary.hop != r {
		t.Fatalf("%+v", ordinary)
	}
	m.peer.detours[overlay.ClassBulk].Store(ordinary)
	grant := grantOf(m.n, reserve.Mbit)
	grant.Mark.Peer = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	f := reservedFlow{To: m.peer.id, Pair: stationsOf(there, back), Grant: grant}
	if err := m.n.setReserved(m.n.now(), rid(1), f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.n.clearReserved(rid(1)) })
	m.lane.out.carry(m.n.now(), m.n.view.Load(), 0, someFrames(back, 1))
	m.receivesReserved(t)
}

// receivesReserved waits until a datagram of a reserved way comes to a mirror's socket, which isn't
// to be passed on.
func (m *mirror) receivesReserved(t *testing.T) {
	t.Helper()
	b := link.NewBatch()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		for _, p := range []*link.Socket{m.n.sockets[0].Bulk[0], m.n.sockets[0].Delay} {
			if err := p.Read(b); err != nil {
				t.Fatal(err)
			}
			for i := range b.Len() {
				d := b.Data(i)
				if kind, _ := overlay.ParseKind(d); kind == overlay.KindRelay {
					t.Fatal("it is to be passed on")
				}
				if space, _ := overlay.SpaceOf(binary.BigEndian.Uint64(d[8:])); space == overlay.SpaceReserved {
					return
				}
			}
		}
	}
	t.Fatal("nothing came")
}

// TestCircuitsNow: of circuits that had the same interface one after the other only the one that
// there is, or was a moment ago, says what becomes of it.
func TestCircuitsNow(t *testing.T) {
	self := overlay.AgentID{1}
	row := func(number byte, s reserve.State, device string) reserve.Row {
		return reserve.Row{
			ID: reserve.ID{Reservation: [16]byte{number}}, Kind: reserve.Circuit, Coordinator: self, State: s,
			Mark: reserve.Mark{Device: device},
		}
	}
	for _, c := range []struct {
		name     string
		rows     []reserve.Row
		known    []byte // reservations that the agent was on
		on, over []byte
		after    int // how many are known then
	}{
		{name: "granted", rows: []reserve.Row{row(1, reserve.Committed, "w.1")}, on: []byte{1}},
		{name: "not known", rows: []reserve.Row{row(1, reserve.Unknown, "w.1")}, on: []byte{1}},
		{name: "held only", rows: []reserve.Row{row(1, reserve.Held, "w.1")}},
		{name: "over now", rows: []reserve.Row{row(1, reserve.Releasing, "w.1")}, known: []byte{1}, over: []byte{1}, after: 1},
		{name: "over long ago", rows: []reserve.Row{row(1, reserve.Released, "w.1")}},
		{
			name: "the second is over, too", rows: []reserve.Row{row(1, reserve.Released, "w.1"), row(2, reserve.Orphan, "w.1")},
			known: []byte{2}, over: []byte{2}, after: 1,
		},
		{
			name: "the second is on", rows: []reserve.Row{row(2, reserve.Active, "w.1"), row(1, reserve.Released, "w.1")},
			known: []byte{2}, on: []byte{2}, after: 1,
		},
		{
			name: "taken at once", rows: []reserve.Row{row(1, reserve.Released, "w.1"), row(2, reserve.Active, "w.1")},
			known: []byte{1}, on: []byte{2},
		},
		{
			name: "another interface", rows: []reserve.Row{row(1, reserve.Released, "w.1"), row(2, reserve.Active, "w.2")},
			known: []byte{1, 2}, on: []byte{2}, over: []byte{1}, after: 2,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			known := make(map[reserve.ID]reserve.Mark)
			for _, number := range c.known {
				known[reserve.ID{Reservation: [16]byte{number}}] = reserve.Mark{}
			}
			numbers := func(rows []reserve.Row) (all string) {
				for _, r := range rows {
					all += string(r.ID.Reservation[:1])
				}
				return all
			}
			on, over := circuitsNow(c.rows, self, known)
			if numbers(on) != string(c.on) || numbers(over) != string(c.over) || len(known) != c.after {
				t.Errorf("on %v, over %v, known %v", on, over, known)
			}
		})
	}
}
