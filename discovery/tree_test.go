package discovery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// wire connects the stores as agents would that know all of them but those that are
// gone, and cuts all other connections.
func (c *cluster) wire(gone map[int]bool) {
	var here []overlay.AgentID
	for i := range c.stores {
		if !gone[i] {
			here = append(here, agentID(i))
		}
	}
	for i := range c.stores {
		var want []overlay.AgentID
		if !gone[i] {
			want = Neighbours(agentID(i), here, nil, 8)
		}
		for j := range c.stores {
			switch _, ok := slices.BinarySearchFunc(want, agentID(j), overlay.AgentID.Compare); {
			case ok:
				c.connect(i, j)
			case c.up[[2]int{i, j}]:
				c.cut(i, j)
			}
		}
	}
}

func (c *cluster) cut(i, j int) {
	delete(c.up, [2]int{i, j})
	delete(c.up, [2]int{j, i})
	c.stores[i].Disconnected(agentID(j))
	c.stores[j].Disconnected(agentID(i))
}

// pushOnly keeps the stores from comparing themselves: what heals then is the tree.
func (c *cluster) pushOnly() {
	for _, s := range c.stores {
		s.nextGossip = c.now.Add(2 * gossipEvery)
	}
}

// grown returns stores on the graph of Neighbours that all have a record, and a tree.
func grown(t *testing.T, n int, seed uint64, loss float64) *cluster {
	c := newCluster(n, seed, loss)
	c.wire(nil)
	for i := range n {
		c.publish(i)
	}
	c.until(t, time.Minute, "all know all", c.agree)
	for i := range 20 {
		c.publish(i * n / 20)
		c.run(t, time.Second)
	}
	return c
}

// News wait for others for a quarter of a second, whatever the clock does, and go out in one
// message.
func TestNewsWait(t *testing.T) {
	b := bench{NewStore(agentID(2), testKey(7), 1, Limits{})}
	b.Connected(at(0), agentID(1))
	b.flush()
	b.Receive(at(0), agentID(1), message(sectionPrune))
	for _, step := range []struct {
		after   time.Duration // on the clock
		publish bool
		sent    string
	}{
		{0, true, ""},
		{100 * time.Millisecond, true, ""},
		{200 * time.Millisecond, false, ""},
		{250 * time.Millisecond, false, "→1 news 2.member 2.links"},
		{600 * time.Millisecond, false, ""},
		{800 * time.Millisecond, true, ""},
		{-time.Hour, false, ""},
		{250*time.Millisecond - time.Hour, false, "→1 news 2.member"},
	} {
		now := at(0).Add(step.after)
		if step.publish {
			kind, body := KindMember, memberBody("agent2")
			if step.after == 100*time.Millisecond {
				kind, body = KindLinks, make([]byte, linksHead+leastFacts)
				body[2], body[3] = leastRowLen, leastFacts
			}
			b.Publish(now, signed(2, kind, b.NextVersion(now), start+3600, body))
		}
		b.gather(now)
		if got := b.flush(); got != step.sent {
			t.Errorf("after %v: sent %q, want %q", step.after, got, step.sent)
		}
	}
}

// What was asked for is offered on a quarter of a second later, and not to who has got it
// meanwhile.
func TestOffersWait(t *testing.T) {
	for _, meanwhile := range []bool{false, true} {
		b := bench{NewStore(agentID(2), testKey(7), 1, Limits{})}
		b.Connected(at(0), agentID(1))
		b.Connected(at(0), agentID(3))
		b.flush()
		r := member(5, 0)
		b.Receive(at(0), agentID(3), message(sectionOffer, stampOf(r).append(nil)))
		if got := b.flush(); got != "→3 request 5.member" {
			t.Fatal(got)
		}
		b.Receive(at(0), agentID(3), records(r))
		b.gather(at(0))
		if got := b.flush(); got != "" {
			t.Errorf("offered at once: %s", got)
		}
		want := "→1 offer 5.member"
		if meanwhile {
			b.Receive(at(0), agentID(1), message(sectionNews, stampOf(r).append(nil)))
			want = ""
		}
		b.gather(at(0).Add(newsAfter))
		if got := b.flush(); got != want {
			t.Errorf("meanwhile %v: sent %q, want %q", meanwhile, got, want)
		}
	}
}

// Steps of a store with two neighbours.
func TestTreeSteps(t *testing.T) {
	b := bench{NewStore(agentID(2), testKey(7), 1, Limits{})}
	for _, n := range []int{1, 3} {
		b.Connected(at(0), agentID(n))
	}
	b.flush()
	receive := func(from int, msg []byte) func(overlay.Instant) error {
		return func(now overlay.Instant) error { return b.Receive(now, agentID(from), msg) }
	}
	publish := func(now overlay.Instant) error {
		b.Publish(now, signed(2, KindMember, b.NextVersion(now), start+3600, memberBody("agent2")))
		return nil
	}
	tick := func(now overlay.Instant) error {
		b.nextGossip = now.Add(gossipEvery)
		b.Tick(now)
		return nil
	}
	own := key{agentID(2), KindMember}.append(nil)
	for _, step := range []struct {
		name  string
		after int
		do    func(now overlay.Instant) error
		sent  string
	}{
		{"what is new goes to all", 0, publish, "→1 record 2.member; →3 record 2.member"},
		{"and is passed on", 0, receive(1, records(member(5, 0))), "→3 record 5.member"},
		{"who sends it too is told to stop", 0, receive(3, records(member(5, 0))), "→3 prune"},
		{"and gets stamps", 1, publish, "→1 record 2.member; →3 news 2.member"},
		{"as does who asks for it", 1, receive(1, message(sectionPrune)), ""},
		{"so both do", 2, publish, "→1 news 2.member; →3 news 2.member"},
		{"who asks for the record gets it", 2, receive(3, message(sectionGraft, own)), "→3 record 2.member"},
		{"and what follows", 3, publish, "→1 news 2.member; →3 record 2.member"},
		{"what news tell of may still come", 4, receive(1, message(sectionNews, stampOf(member(6, 4)).append(nil))), ""},
		{"from two", 4, receive(3, message(sectionNews, stampOf(member(6, 4)).append(nil))), ""},
		{"not yet", 4, tick, ""},
		{"it is asked for where it was told of first", 5, tick, "→1 graft 6.member"},
		{"once", 6, tick, ""},
		{"then where it was told of next", 7, tick, "→3 graft 6.member"},
		{"which brings it", 7, receive(3, records(member(6, 4))), "→1 offer 6.member"},
		{"and that is all", 10, tick, ""},
		{"what news tell of and comes", 10, receive(1, message(sectionNews, stampOf(member(6, 9)).append(nil))), ""},
		{"by the tree, isn't told back", 10, receive(3, records(member(6, 9))), ""},
		{"and isn't asked for", 12, tick, ""},
		{"what is known is no news", 12, receive(1, message(sectionNews, stampOf(member(6, 4)).append(nil))), ""},
		{"nor missing", 14, tick, ""},
		{"what is offered is asked for", 15, receive(1, message(sectionOffer, stampOf(member(8, 9)).append(nil))), "→1 request 8.member"},
		{"of one", 15, receive(3, message(sectionOffer, stampOf(member(8, 9)).append(nil))), ""},
		{"who may still answer", 16, tick, ""},
		{"then of the other", 17, tick, "→3 graft 8.member"},
		{"who answers", 17, receive(3, records(member(8, 9))), "→1 offer 8.member"},
		{"who told may be gone", 20, receive(1, message(sectionNews, stampOf(member(7, 9)).append(nil))), ""},
		{"by then", 21, func(now overlay.Instant) error { b.Disconnected(agentID(1)); return tick(now) }, ""},
	} {
		if err := step.do(at(step.after)); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		b.speak(at(step.after))
		if got := b.flush(); got != step.sent {
			t.Errorf("%s: sent %q, want %q", step.name, got, step.sent)
		}
	}
	if err := b.Receive(at(25), agentID(3), message(sectionNews, make([]byte, stampLen-1))); err == nil {
		t.Error("half a stamp is taken")
	}
}

// Once the tree has formed, an update goes to everybody about once, and by pushes alone.
func TestTree(t *testing.T) {
	t.Parallel()
	const n, updates = 200, 50
	c := grown(t, n, 1, 0)
	clear(c.sent)
	slowest := time.Duration(0)
	for range updates {
		c.publish(c.rand.IntN(n))
		slowest = max(slowest, c.until(t, 5*time.Second, "an update is everywhere", func() bool { c.pushOnly(); return c.agree() }))
	}
	copies := float64(c.sent[sectionRecord]) / float64(updates*(n-1))
	t.Logf("%d agents: %.2f copies of an update each, slowest after %v; sections sent: %v", n, copies, slowest, c.sent)
	if copies > 1.2 {
		t.Errorf("%.2f copies of an update each", copies)
	}
}

// When agents fall silent and nobody has noticed yet, the others get updates all the
// same, within about a second, without comparing their stores.
func TestTreeMends(t *testing.T) {
	const n = 100
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			c := grown(t, n, seed, 0)
			for len(c.mute) < 5 {
				c.mute[c.rand.IntN(n)] = true
			}
			from := 0
			for c.mute[from] {
				from++
			}
			c.publish(from)
			want, _ := c.stores[from].Record(agentID(from), KindMember)
			took := c.until(t, 5*time.Second, "the update is everywhere", func() bool {
				c.pushOnly()
				for i, s := range c.stores {
					if got, _ := s.Record(agentID(from), KindMember); !c.mute[i] && got.Version != want.Version {
						return false
					}
				}
				return true
			})
			t.Logf("everywhere after %v", took)
		})
	}
}

// Two halves that heard nothing of each other for a minute, while everything changed,
// are one again soon, and so are stores that lose a tenth of all messages.
func TestPartition(t *testing.T) {
	const n = 100
	for _, loss := range []float64{0, 0.1} {
		t.Run(fmt.Sprint("loss ", loss), func(t *testing.T) {
			t.Parallel()
			c := grown(t, n, 9, loss)
			for i := range c.up {
				if i[0]%2 != i[1]%2 {
					c.cut(i[0], i[1])
				}
			}
			for i := range n {
				c.publish(i)
				c.run(t, 600*time.Millisecond)
			}
			if c.agree() {
				t.Fatal("the halves weren't apart")
			}
			c.wire(nil)
			limit := 10 * time.Second
			if loss > 0 { // each message that is lost costs a comparison, seconds later
				limit = 90 * time.Second
			}
			t.Logf("agreement after %v", c.until(t, limit, "the halves agree", c.agree))
		})
	}
}

// While agents come, go and return without their state, all who are there get every
// update within seconds.
func TestChurn(t *testing.T) {
	t.Parallel()
	const n = 100
	c := grown(t, n, 5, 0.02)
	gone := make(map[int]bool)
	for round := range 60 {
		switch i := c.rand.IntN(n); {
		case gone[i]:
			delete(gone, i)
			c.stores[i] = c.store(i, uint64(1000+round))
			c.wire(gone)
			c.publish(i)
		case len(gone) < n/10:
			gone[i] = true
			c.wire(gone)
		}
		c.publish(c.rand.IntN(n))
		c.run(t, time.Second)
	}
	for i := range gone {
		c.stores[i] = c.store(i, uint64(2000+i))
	}
	c.wire(nil)
	t.Logf("agreement after %v", c.until(t, 20*time.Second, "all agree", c.agree))
}

// Whatever neighbours tell, what is missing stays bounded.
func TestMissingIsBounded(t *testing.T) {
	s := NewStore(agentID(0), testKey(7), 1, Limits{Origins: 10 * maxMissing})
	s.Connected(at(0), agentID(1))
	for i := range 2 * maxMissing {
		p := packer{send: func(msg []byte) {
			if err := s.Receive(at(0), agentID(1), msg); err != nil {
				t.Fatal(err)
			}
		}}
		told := []stamp{{key: key{overlay.AgentID{1, byte(i), byte(i >> 8)}, KindMember}, version: uint64(at(0))}}
		list(&p, sectionNews, stampLen, told, func(b []byte, x stamp) []byte { return x.append(b) })
		p.flush()
	}
	if got := s.missing.told.len(); got != maxMissing || len(s.missing.order) != got {
		t.Errorf("%d records are missing, %d in order, want %d", got, len(s.missing.order), maxMissing)
	}
	for second := range 10 { // it is asked for, in vain
		s.Tick(at(second))
	}
	if s.missing.told.len() != 0 {
		t.Errorf("%d records are missing for ever", s.missing.told.len())
	}
}
