package agent

import (
	"testing"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// What stood before a lane's flows is told of each, by how fast it went.
func TestStandBefore(t *testing.T) {
	flows := []measure.Flow{{Bytes: 3_000_000}, {Bytes: 1_000_000, Waited: time.Second}}
	standBefore(flows, 400_000, time.Second)
	if flows[0].Waited != 100*time.Millisecond || flows[1].Waited != time.Second || flows[0].Waiting != 400_000 {
		t.Errorf("%+v", flows)
	}
	for _, f := range [][]measure.Flow{nil, {{Bytes: 0}}, {{Bytes: 5, Over: 5}}} {
		standBefore(f, 400_000, time.Second) // doesn't divide by nothing
	}
	standBefore(flows, 0, time.Second)
	standBefore(flows, 1, 0)
	if flows[0].Waiting != 400_000 {
		t.Errorf("%+v", flows)
	}
}

// What counts is the least that waits in a second; where nobody looked nothing does.
func TestBacklogsAreThoseThatStand(t *testing.T) {
	m := newMirror(t)
	b := &m.n.backlogs
	if b.take(0) != 0 || b.take(9) != 0 {
		t.Error("something waits where nobody looked")
	}
	now := m.n.now()
	m.n.lookAtBacklogs(now)
	if b.least[0] != 0 {
		t.Errorf("%d bytes wait", b.least[0])
	}
	b.least[0] = 100
	m.n.lookAtBacklogs(now.Add(backlogEvery / 2))
	if b.least[0] != 100 {
		t.Error("it looked too soon")
	}
	m.n.lookAtBacklogs(now.Add(backlogEvery))
	if b.take(0) != 0 || b.least[0] != -1 {
		t.Error("the least doesn't count")
	}
}

// Who decides is told of pairs whose receivers are at other agents, and which of them have a way
// of their own.
func TestPairsAreTold(t *testing.T) {
	m := reservedMirror(t, reservedFlow{})
	f := &m.n.flows
	sent := func(from overlay.MAC, place overlay.Place) measure.Flow {
		return measure.Flow{StationPair: stationsOf(from, back), Place: place, Bytes: 1e6}
	}
	now := m.n.now()
	f.demands.Add(now, nil)
	f.demands.Add(now.Add(time.Second), []measure.Flow{
		sent(there, m.peer.place()), sent(overlay.MAC{9}, m.peer.place()), sent(overlay.MAC{8}, overlay.AgentPlace(77)),
	})
	all := m.n.pairs()
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	for _, p := range all {
		if p.Agent != m.peer.id || p.To != back || (p.Reserved != nil) != (p.From == there) || p.Reserved != nil && *p.Reserved != rid(1) {
			t.Errorf("%+v", p)
		}
	}
}
