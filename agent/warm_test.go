package agent

import (
	"context"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"farlan/agent/decide"
	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// settled is how long it takes until the sessions are over that were opened when agents
// met, and links are chosen.
const settled = coldStart + overlay.RejectAfter + time.Minute

// Many agents keep in session with few others. It is one village to whom one thing after the
// other happens, as it takes a while until it has settled: of agents that have run for so long
// that they meet no more candidates than ever, so that it is soon.
func TestSessionsAreFew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const neighbours, at = 3, 7
		v := newVillage(t, 18, neighbours, coldStart)
		var err error
		if v.homes[at].n.state, err = openState(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		defer v.homes[at].n.state.close()
		v.run(90 * time.Second)
		v.haveFew(neighbours)
		v.frozen = true // a session makes it one with whom a link may be chosen
		i, j := v.strangers()
		v.openOnDemand(i, j)
		v.rest(2 * time.Minute)
		if v.peer(i, j).out.Load() == nil || v.peer(j, i).out.Load() == nil {
			t.Error("the session is over two minutes after the last frame")
		}
		v.openByRelay()
		v.rest(overlay.RekeyAfter + overlay.RejectAfter + usedFor)
		v.agree()
		if a, b := v.peer(i, j), v.peer(j, i); a.out.Load() != nil || b.out.Load() != nil || a.state != measure.Idle || b.state != measure.Idle {
			t.Errorf("the session is kept, as %d and %d, or they aren't idle: %v and %v", a.warmth, b.warmth, a.state, b.state)
		}
		v.openOnDemand(i, j)
		v.floodToAll(i)
		v.openByRelays()
		v.forgetSession()
		v.frozen = false
		v.run(30 * time.Second)
		v.takeUpLinks(at)
		v.comeBackUnheard(5)
		v.comeBackAlone(9)
		v.die()
	})
}

// The same is so among agents that all begin at once, and meet all others.
func TestSessionsBecomeFew(t *testing.T) {
	if os.Getenv("FARLAN_LONG") == "" {
		t.Log("only with FARLAN_LONG: it takes a minute of processor time")
		return
	}
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 24, 3, 0)
		v.run(settled)
		v.haveFew(3)
		v.run(5 * time.Minute)
		v.haveFew(3)
	})
}

// haveFew fails unless both ends of each pair agree on whether there is a session, the others
// are idle, and sessions are few: those with links, of which each agent holds three with an
// other; with its own neighbours and whose neighbour it is, who are more often the same than
// not; and with candidates, its own and those whose candidate it is.
func (v *village) haveFew(neighbours int) {
	v.t.Helper()
	v.agree()
	all := 0
	for i, h := range v.homes {
		n := h.n
		all += v.sessions(i)
		for _, p := range n.peers {
			has := p.out.Load() != nil
			if wanted := n.linking.link(p.id) != nil || slices.Contains(n.warm.neighbours, p.id); wanted && !has {
				v.t.Errorf("no session of %s with %s, which is wanted", n.cfg.Name, p.member.Name)
			}
			if !has && p.warmth == cold && p.state != measure.Idle {
				v.t.Errorf("%s shows %s, without a session, as %v", n.cfg.Name, p.member.Name, p.state)
			}
		}
		if n.inState(measure.Gone) > 0 || len(n.liveMembers()) != len(v.homes)-1 {
			v.t.Errorf("%s takes members for gone", n.cfg.Name)
		}
	}
	const links, candidates = 2 * 3, 2 * float64(overlay.RejectAfter) / float64(candidateGap)
	mean, most := float64(all)/float64(len(v.homes)), links+1.5*float64(neighbours)+candidates
	if v.t.Logf("%d agents have %.1f sessions each", len(v.homes), mean); mean > most {
		v.t.Errorf("more than %.1f", most)
	}
}

// openOnDemand has one agent send frames to another without a session: they get there, a
// round trip and a handshake later, in order, and the answer comes back.
func (v *village) openOnDemand(i, j int) {
	v.t.Helper()
	a, b := v.homes[i], v.homes[j]
	a.n.sw.Stations.Learn(a.n.now(), v.station(j), v.peer(i, j).place())
	before := b.port.frames
	for range 3 {
		v.send(i, v.station(j))
	}
	v.run(3*v.delay(i, j) + 5*villageTick)
	if got := b.port.frames - before; got != 3 {
		v.t.Fatalf("%d of 3 frames arrived a handshake later; dropped: %v, %v", got, a.n.drops.views(), b.n.drops.views())
	}
	before = a.port.frames
	v.send(j, v.station(i))
	v.run(v.delay(i, j) + 3*villageTick)
	if a.port.frames != before+1 {
		v.t.Error("no answer")
	}
}

// floodToAll has an agent send a frame for all: it reaches all, and opens no session.
func (v *village) floodToAll(i int) {
	v.t.Helper()
	v.run(2 * time.Second)
	counts, sessions := make([]int, len(v.homes)), v.sessions(i)
	for k, h := range v.homes {
		counts[k] = h.port.frames
	}
	v.send(i, overlay.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	v.run(200 * time.Millisecond)
	for k, h := range v.homes {
		if got := h.port.frames - counts[k]; k != i && got != 1 {
			v.t.Errorf("%d frames for all arrived at %d", got, k)
		}
	}
	if got := v.sessions(i); got != sessions {
		v.t.Errorf("it had %d sessions before, and %d after", sessions, got)
	}
}

// openByRelay opens a session between two that no datagram passes directly, by way of one
// that has a session with both, or opens one.
func (v *village) openByRelay() {
	v.relayed(func(_, _ int, _ func(k, l int) bool, _, _ int) bool { return false }, 0)
}

// openByRelays opens one by way of several: nobody near the one reaches the other.
func (v *village) openByRelays() {
	v.relayed(func(i, j int, near func(k, l int) bool, k, l int) bool {
		return k == j && near(i, l) || l == j && near(i, k)
	}, 20*time.Second)
}

func (v *village) relayed(cut func(i, j int, near func(k, l int) bool, k, l int) bool, after time.Duration) {
	v.t.Helper()
	i, j := v.strangers()
	near := func(k, l int) bool { return k == l || v.peer(k, l).out.Load() != nil }
	v.cut = func(k, l int) bool {
		return cut(i, j, near, k, l) || min(k, l) == min(i, j) && max(k, l) == max(i, j)
	}
	v.run(after)
	a := v.homes[i]
	a.n.sw.Stations.Learn(a.n.now(), v.station(j), v.peer(i, j).place())
	before := v.homes[j].port.frames
	v.send(i, v.station(j))
	v.run(heldFor)
	out := v.peer(i, j).out.Load()
	if got := v.homes[j].port.frames - before; got != 1 || out == nil || out.relay == nil {
		v.t.Fatalf("%d of 1 frames arrived", got)
	}
	v.t.Logf("the way leads by %d agents", len(out.between))
	v.cut = nil
}

// forgetSession has an agent start anew, which has lost the session: who sends to it meets it
// again at once.
func (v *village) forgetSession() {
	v.t.Helper()
	i, j := v.strangers()
	a := v.homes[i]
	a.n.sw.Stations.Learn(a.n.now(), v.station(j), v.peer(i, j).place())
	v.send(i, v.station(j))
	v.run(time.Second)
	v.start(j, 3)
	v.meet(j)
	for range 30 {
		v.send(i, v.station(j))
		v.run(100 * time.Millisecond)
	}
	if got := v.homes[j].port.frames; got < 15 {
		v.t.Errorf("%d of 30 frames arrived", got)
	}
	if v.peer(i, j).state != measure.Up || v.peer(j, i).state != measure.Up {
		v.t.Errorf("they are %v and %v", v.peer(i, j).state, v.peer(j, i).state)
	}
}

// comeBackUnheard has an agent be out of reach until others take it for gone. When it is back
// they find that it is, though nobody hears of anything new that it or others tell.
func (v *village) comeBackUnheard(j int) {
	v.t.Helper()
	v.mute, v.cut = true, func(k, l int) bool { return k == j || l == j }
	v.run(measure.GoneAfter + 5*time.Second)
	takes := func(s measure.State) (count int) {
		for k := range v.homes {
			if k != j && v.peer(k, j).state == s {
				count++
			}
		}
		return count
	}
	gone, took := takes(measure.Gone), time.Duration(0)
	if gone < 5 {
		v.t.Errorf("%d take it for gone, and those in session with it are more", gone)
	}
	v.cut = nil
	for ; takes(measure.Gone) > 0 && took < 10*time.Minute; took += time.Second {
		v.run(time.Second)
	}
	if v.t.Logf("%d took it for gone, until %v after it was back", gone, took); took > returnFirst+2*decide.Epoch {
		v.t.Error("that is late")
	}
	v.mute = false
	v.run(10 * time.Second)
}

// die has an agent die: it is gone for all others, also for those without a session with it,
// and stays so. One that starts anew is met by who has something for it.
func (v *village) die() {
	v.t.Helper()
	i, j := v.strangers()
	v.homes[j].down = true
	took, late := make([]time.Duration, len(v.homes)), time.Duration(0)
	for now := time.Second; now <= 45*time.Second; now += time.Second {
		v.run(time.Second)
		for k, h := range v.homes {
			switch gone := k != j && v.peer(k, j).state == measure.Gone; {
			case gone && took[k] == 0:
				took[k] = now
				late = max(late, now)
			case !gone && took[k] != 0:
				v.t.Fatalf("%s takes the dead one for %v again", h.n.cfg.Name, v.peer(k, j).state)
			}
		}
	}
	v.t.Logf("the dead one is gone for all after %v", late)
	for k, h := range v.homes {
		if k != j && took[k] == 0 {
			v.t.Errorf("%s shows the dead one as %v", h.n.cfg.Name, v.peer(k, j).state)
		}
		if !h.down && h.n.inState(measure.Gone) > 1 {
			v.t.Errorf("%s takes others for gone, too", h.n.cfg.Name)
		}
	}
	v.start(j, 3)
	v.meet(j)
	v.run(15 * time.Second)
	for k, h := range v.homes {
		if k != j && v.peer(k, j).state == measure.Gone {
			v.t.Errorf("%s still shows it as gone", h.n.cfg.Name)
		}
	}
	a := v.homes[i]
	a.n.sw.Stations.Learn(a.n.now(), v.station(j), v.peer(i, j).place())
	before := v.homes[j].port.frames
	v.send(i, v.station(j))
	v.run(500 * time.Millisecond)
	if v.homes[j].port.frames != before+1 {
		v.t.Error("it isn't reached")
	}
}

// comeBackAlone has an agent lose its network until it takes everybody for gone. When it is
// back, everybody is there at once.
func (v *village) comeBackAlone(j int) {
	v.t.Helper()
	n := v.homes[j].n
	v.mute, v.cut = true, func(k, l int) bool { return k == j || l == j }
	v.run(time.Minute)
	if got := n.inState(measure.Up); got > 0 || n.inState(measure.Gone) < len(v.homes)/2 {
		v.t.Errorf("%d answer one that is cut off, and %d are gone", got, n.inState(measure.Gone))
	}
	v.mute, v.cut = false, nil
	took := time.Duration(0)
	for ; n.inState(measure.Gone) > 0 && took < 10*time.Minute; took += time.Second {
		v.run(time.Second)
	}
	if v.t.Logf("nobody is gone any more %v after it was back", took); took > 6*time.Second {
		v.t.Error("that is late")
	}
}

// What waits for a session is bounded, for one peer and in all, and the oldest goes first.
func TestHeldIsBounded(t *testing.T) {
	var h held
	a, b := newPeer(overlay.AgentID{1}, 0, 1, 1), newPeer(overlay.AgentID{2}, 1, 1, 1)
	frame := func(i, size int) *overlay.Frame {
		return &overlay.Frame{Head: append([]byte{byte(i)}, make([]byte, size-1)...)}
	}
	dropped := uint64(0)
	for i := range 2 * heldFrames {
		dropped += h.add(overlay.Instant(i), a, frame(i, 60))
	}
	if dropped != heldFrames || len(h.of[a].frames) != heldFrames || h.bytes != heldFrames*60 {
		t.Errorf("%d dropped of twice as many as fit, %d bytes are held", dropped, h.bytes)
	}
	dropped = 0
	for i := range 10 {
		dropped += h.add(overlay.Instant(1000+i), b, &overlay.Frame{Head: make([]byte, 60), Body: [][]byte{make([]byte, 60_000)}})
	}
	if got := h.of[b].bytes; dropped != 8 || got > heldBytes {
		t.Errorf("%d dropped, %d bytes are held for a peer", dropped, got)
	}
	peers := []*peer{a, b}
	for i := range 2 * heldAllBytes / heldBytes {
		p := newPeer(overlay.AgentID{3, byte(i)}, 2, 1, 1)
		peers = append(peers, p)
		h.add(overlay.Instant(2000+i), p, frame(0, 60_000))
		h.add(overlay.Instant(2000+i), p, frame(1, 60_000))
	}
	if h.bytes > heldAllBytes || h.of[a] != nil {
		t.Errorf("%d bytes are held in all, the oldest: %v", h.bytes, h.of[a] != nil)
	}
	if got := h.take(peers[len(peers)-1]); len(got) != 2 || got[0].frame.Head[0] != 0 || got[1].frame.Head[0] != 1 {
		t.Errorf("%d frames are left of the newest", len(got))
	}
	late := 0
	h.expire(overlay.Instant(5000+heldFor), func(f []heldFrame) { late += len(f) })
	if late == 0 || h.bytes != 0 || len(h.of) != 0 {
		t.Errorf("%d came too late, %d bytes are still held", late, h.bytes)
	}
}

// The bytes that wait are the frame's own: those that are carried are borrowed.
func TestHeldIsCopied(t *testing.T) {
	var h held
	p := newPeer(overlay.AgentID{1}, 0, 1, 1)
	f := overlay.Frame{Head: []byte{1, 2}, Body: [][]byte{{3}, {4}}, Offload: overlay.Offload{Segment: 7}}
	h.add(1, p, &f)
	f.Head[0], f.Body[1][0] = 9, 9
	got := h.take(p)[0].frame
	if got.Head[0] != 1 || got.Body[1][0] != 4 || got.Segment != 7 {
		t.Errorf("%+v", got)
	}
}

// Ping waits for a session, which is opened for it.
func TestSummon(t *testing.T) {
	m := newMirror(t)
	n, p := m.n, m.peer
	n.peers[p.id], n.byIndex = p, []*peer{p}
	p.onDemand.Store(true)
	n.summon(context.Background(), p) // there is one
	if p.calling.Load() {
		t.Error("asked for though it is there")
	}
	out := p.out.Swap(nil)
	go func() {
		for n.mail.take() == nil {
			time.Sleep(time.Millisecond)
		}
		p.out.Store(out)
	}()
	n.summon(context.Background(), p)
	if p.out.Load() == nil {
		t.Error("not waited for")
	}
	p.out.Store(nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.summon(ctx, p)
}

// An agent of whose links nobody tells any more is asked whether it is there.
func TestVouches(t *testing.T) {
	w := newMapWorld(t, "a", "b", "c")
	row := func(to string, kept bool) discovery.Link {
		return discovery.Link{Peer: w.id(to), Pair: measure.Pair{RTT: time.Millisecond, RTTSource: measure.Measured}, Intent: discovery.Intent{Holds: kept}}
	}
	w.publish("a", discovery.KindLinks, must(discovery.AppendLinks(nil, w.n.wall(), discovery.Facts{}, []discovery.Link{row("b", true)})))
	w.publish("b", discovery.KindLinks, must(discovery.AppendLinks(nil, w.n.wall(), discovery.Facts{}, []discovery.Link{row("c", false)})))
	for _, name := range []string{"a", "b"} {
		w.n.noteLinks(w.id(name))
	}
	all := vouches(w.n.toldLinks())
	if len(all) != 1 || !all[discovery.BriefOf(w.id("b"))] {
		t.Errorf("%v", all)
	}
}

// takeUpLinks has an agent start anew. It takes up the links that it kept, by what its disk
// remembers: others needn't tell it, and no link is chosen in place of another.
func (v *village) takeUpLinks(at int) {
	v.t.Helper()
	old := v.homes[at].n
	kept, leaves := slices.Clone(old.linking.kept), make(map[overlay.AgentID]bool)
	for _, k := range kept {
		back := v.homes[v.index[k.Peer]].n.linking.link(old.self)
		leaves[k.Peer] = k.Leaving || back != nil && back.Leaving
	}
	v.age = 0
	v.start(at, 3)
	n := v.homes[at].n
	n.state = old.state
	n.recall()
	for _, c := range n.store.Changes() {
		if c.Origin == n.self {
			n.recordChanged(n.now(), c)
		}
	}
	v.meet(at)
	v.run(30 * time.Second)
	same := 0
	for _, k := range kept {
		if n.linking.link(k.Peer) != nil {
			same++
		} else if !leaves[k.Peer] {
			v.t.Errorf("the link with %s isn't kept any more", n.peers[k.Peer].member.Name)
		}
	}
	fresh := 0 // of its own choice
	for _, k := range n.linking.kept {
		if k.Holds && !slices.ContainsFunc(kept, func(o decide.Kept) bool { return o.Peer == k.Peer }) {
			fresh++
		}
	}
	if v.t.Logf("of %d links %d are kept 30 s after the start, and it holds %d new ones", len(kept), same, fresh); fresh > 1 {
		v.t.Error("a link lives for a minute at least")
	}
}
