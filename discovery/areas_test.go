package discovery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"farlan/overlay"
)

// live publishes agent i's member record of the area in which it is.
func (c *cluster) live(i int) {
	s := c.stores[i]
	number, _ := s.Area()
	body, err := Member{Name: fmt.Sprint("agent", i), Area: number}.Append(nil)
	if err != nil {
		panic(err)
	}
	v := s.NextVersion(c.now)
	s.Publish(c.now, signed(i, KindMember, v, int64(v/1e9)+3600, body))
}

// move takes agent i to another area.
func (c *cluster) move(i int, area uint32) {
	c.stores[i].Enter(c.now, area)
	c.live(i)
}

// gate publishes what agent i tells of its area as a gateway.
func (c *cluster) gate(i int) {
	s := c.stores[i]
	a := Area{Size: 3, Member: Member{Name: fmt.Sprint("agent", i)}}
	a.Number, _ = s.Area()
	body, err := a.Append(nil)
	if err != nil {
		panic(err)
	}
	v := s.NextVersion(c.now)
	s.Publish(c.now, signed(i, KindArea, v, int64(v/1e9)+3600, body))
}

// knows returns the members of whom agent i has the member record, and the gateways.
func (c *cluster) knows(i int) (members, gateways []int) {
	for j := range c.stores {
		if _, ok := c.stores[i].Record(agentID(j), KindMember); ok {
			members = append(members, j)
		}
		if _, _, ok := c.stores[i].Gateway(agentID(j)); ok {
			gateways = append(gateways, j)
		}
	}
	return members, gateways
}

// divided returns stores 0–3 in area 7 and 4–7 in area 9, each a ring, of which 0 and 4 are
// gateways and connected.
func divided(t *testing.T, loss float64) *cluster {
	c := newCluster(8, 5, loss)
	for i := range 8 {
		c.stores[i].Enter(c.now, []uint32{7, 9}[i/4])
	}
	c.run(t, moving+time.Second)
	for i := range 8 {
		c.connect(i, i/4*4+(i+1)%4)
		c.live(i)
	}
	c.connect(0, 4)
	c.gate(0)
	c.gate(4)
	return c
}

// Members' records stay in their area; those of gateways go everywhere, whatever is lost.
func TestAreas(t *testing.T) {
	c := divided(t, 0.2)
	want := [][]int{{0, 1, 2, 3}, {4, 5, 6, 7}}
	all := func() bool {
		for i := range c.stores {
			members, gateways := c.knows(i)
			if !slices.Equal(members, want[i/4]) || !slices.Equal(gateways, []int{0, 4}) {
				return false
			}
		}
		return true
	}
	c.until(t, time.Minute, "all know their area and the gateways", all)
	for i := range 8 {
		if s := c.stores[i]; s.Hash() != c.stores[i/4*4].Hash() || s.WideHash() != c.stores[0].WideHash() {
			t.Errorf("agent %d has another hash", i)
		}
	}
	if c.stores[0].Hash() == c.stores[4].Hash() {
		t.Error("the areas have the same hash")
	}
	if c.sent[sectionHash]+c.sent[sectionDigest] > 0 {
		t.Errorf("compared as if undivided: %v", c.sent)
	}
	if m, ok := c.stores[2].Member(agentID(4)); !ok || m.Name != "agent4" || m.Area != 9 {
		t.Errorf("gateway 4 is %+v, %v", m, ok)
	}
	if !all() {
		t.Error("it didn't last")
	}
}

// A store that isn't divided says nothing of areas.
func TestUndividedIsSilent(t *testing.T) {
	c := newCluster(6, 2, 0.1)
	for i := range 6 {
		c.connect(i, (i+1)%6)
		c.publish(i)
	}
	c.until(t, time.Minute, "all know all", c.agree)
	for typ := range c.sent {
		if typ > sectionGraft {
			t.Errorf("sections of type %d are sent", typ)
		}
	}
}

// An agent that moves is known in both areas for a while, then only in the new one; its
// links of before go too.
func TestMove(t *testing.T) {
	c := divided(t, 0)
	c.run(t, 10*time.Second)
	c.move(3, 9)
	c.connect(3, 5)
	c.until(t, 30*time.Second, "it knows both areas", func() bool { m, _ := c.knows(3); return len(m) == 8 })
	for i, want := range map[int]uint32{1: 9, 6: 9} {
		c.until(t, 30*time.Second, "others know", func() bool { m, _ := c.stores[i].Member(agentID(3)); return m.Area == want })
	}
	c.run(t, moving+linger+5*time.Second)
	for i, want := range map[int][]int{1: {0, 1, 2}, 3: {3, 4, 5, 6, 7}, 6: {3, 4, 5, 6, 7}} {
		if m, _ := c.knows(i); !slices.Equal(m, want) {
			t.Errorf("agent %d knows %v, want %v", i, m, want)
		}
	}
}

// Who is away while another leaves its area learns it when it meets that one.
func TestMovedMeanwhile(t *testing.T) {
	c := divided(t, 0)
	c.run(t, 10*time.Second)
	c.disconnect(2)
	c.move(3, 9)
	c.connect(3, 5)
	c.run(t, moving+linger+5*time.Second)
	if m, _ := c.knows(2); len(m) != 4 {
		t.Fatalf("it knows %v", m)
	}
	c.connect(2, 3)
	c.run(t, linger+5*time.Second)
	if m, _ := c.knows(2); !slices.Equal(m, []int{0, 1, 2}) {
		t.Errorf("it knows %v", m)
	}
}

// A member of another area is found by asking a gateway there, which answers so often and
// not more; what wasn't asked for isn't taken.
func TestSeek(t *testing.T) {
	c := divided(t, 0)
	c.run(t, 10*time.Second)
	s := c.stores[0]
	if _, ok := s.Member(agentID(6)); ok {
		t.Fatal("known already")
	}
	s.Seek(c.now, agentID(4), BriefOf(agentID(6)))
	c.until(t, 5*time.Second, "an answer", func() bool { m, ok := s.Member(agentID(6)); return ok && m.Name == "agent6" })
	if m, _ := c.knows(0); len(m) != 4 {
		t.Errorf("the guest is taken for a member: %v", m)
	}
	r, _ := c.stores[5].Record(agentID(5), KindMember)
	if err := s.Receive(c.now, agentID(4), records(r)); err != nil || s.Counters().Elsewhere == 0 {
		t.Errorf("%v, %+v", err, s.Counters())
	}
	if _, ok := s.Member(agentID(5)); ok {
		t.Error("a record that nobody asked for is taken")
	}
	var ask [8 * 2 * seekBurst]byte
	_ = c.stores[4].Receive(c.now, agentID(0), message(sectionSeek, ask[:]))
	if c.stores[4].Counters().Limited == 0 {
		t.Error("it may be asked as often as one likes")
	}
}

// What makes no sense is refused.
func TestHostileAreas(t *testing.T) {
	s := NewStore(agentID(2), testKey(7), 1, Limits{})
	s.Connected(at(0), agentID(1))
	for _, msg := range [][]byte{
		message(sectionAreas), message(sectionAreas, make([]byte, 3)), message(sectionAreas, make([]byte, 4*(maxFormer+2))),
		message(sectionSums, make([]byte, 8)), message(sectionSums, []byte{scopes}, make([]byte, 8*parts)),
		message(sectionPart), message(sectionPart, []byte{scopes}, make([]byte, 2*keyLen)), message(sectionPart, []byte{0}, make([]byte, keyLen)),
		message(sectionSeek, make([]byte, 7)),
	} {
		if s.Receive(at(1), agentID(1), msg) == nil {
			t.Errorf("section %d of %d bytes is taken", msg[1], len(msg))
		}
	}
	if err := s.Receive(at(1), agentID(1), message(sectionPrune, make([]byte, 9))); err != nil {
		t.Error(err)
	}
}

func area() Area {
	return Area{
		Number: 7, Size: 4, Gateways: []Brief{3, 9}, Member: Member{Name: "agent1", Area: 7},
		Tree: []Leaf{{5, 50, -1, 20 * time.Millisecond}, {2, 20, 0, 30 * time.Millisecond}, {8, 80, 1, 30 * time.Millisecond}},
	}
}

func areaBody(t testing.TB, edit func(*Area)) []byte {
	t.Helper()
	a := area()
	edit(&a)
	b, err := a.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestArea(t *testing.T) {
	b := areaBody(t, func(*Area) {})
	a, err := ParseArea(append(b, 1, 2, 3))
	if err != nil || a.Number != 7 || a.Size != 4 || len(a.Tree) != 3 || a.Member.Area != 7 || !slices.Equal(a.Gateways, []Brief{3, 9}) {
		t.Fatalf("%+v, %v", a, err)
	}
	if way := a.Way(2); !slices.Equal(way, a.Tree) {
		t.Errorf("the way to the last is %v", way)
	}
	for n := range b {
		if _, err := ParseArea(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(b))
		}
	}
	for what, edit := range map[string]func(*Area){
		"an agent twice":          func(a *Area) { a.Tree[2].Agent = 5 },
		"a ring":                  func(a *Area) { a.Tree[1].Parent = 2 },
		"its own parent":          func(a *Area) { a.Tree[1].Parent = 1 },
		"a way that costs less":   func(a *Area) { a.Tree[2].Cost = time.Millisecond },
		"a gateway twice":         func(a *Area) { a.Gateways = []Brief{3, 3} },
		"a parent from elsewhere": func(a *Area) { a.Tree[0].Parent = 400 },
	} {
		if _, err := ParseArea(areaBody(t, edit)); err == nil {
			t.Errorf("taken: %s", what)
		}
	}
	for what, edit := range map[string]func(*Area){
		"leaves":   func(a *Area) { a.Tree = make([]Leaf, MaxLeaves+1) },
		"gateways": func(a *Area) { a.Gateways = make([]Brief, MaxGateways+1) },
	} {
		a := area()
		edit(&a)
		if _, err := a.Append(nil); err == nil {
			t.Errorf("too many %s are told", what)
		}
	}
}

// A gateway can't tell of itself as of another, nor speak for an area that it isn't in.
func TestAreaLiars(t *testing.T) {
	for what, edit := range map[string]func(*Area){
		"itself in the tree":        func(a *Area) { a.Tree[0].Agent = BriefOf(agentID(1)) },
		"itself as another gateway": func(a *Area) { a.Gateways = []Brief{BriefOf(agentID(1))} },
		"nothing that's against it": func(*Area) {},
	} {
		r := signed(1, KindArea, version(0), start+60, areaBody(t, edit))
		if _, err := ParseRecord(testKey(7), r.Bytes()); (err == nil) != (what == "nothing that's against it") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// In a signed network a gateway brings its credential with what it tells of its area: its links
// are taken then, and all goes when it is revoked.
func TestSignedGateway(t *testing.T) {
	s := testNetwork().NewStore(agentID(0), 1, Limits{})
	publish(s, 0, issued(0), 0)
	s.Connected(at(0), agentID(5))
	tell := func(c []byte) Record {
		body, err := Area{Number: 7, Member: Member{Name: "a", Credential: c}}.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return signedIn(1, KindArea, 1, body)
	}
	rows := signedIn(1, KindBackbone, 1, linksOf(1, 1, 2).Body)
	_ = s.Receive(at(2), agentID(5), records(rows))
	if _, _, ok := s.Backbone(agentID(1)); ok {
		t.Error("links of nobody are taken")
	}
	if err := s.Receive(at(2), agentID(5), records(tell(nil))); err == nil {
		t.Error("a gateway without a credential is taken")
	}
	if err := s.Receive(at(2), agentID(5), records(tell(issued(1).Bytes()), rows)); err != nil {
		t.Error(err)
	}
	if _, _, ok := s.Backbone(agentID(1)); !ok {
		t.Error("a gateway's links aren't taken")
	}
	if rights, ok := s.Rights(agentID(1)); !ok || rights != AllRights {
		t.Errorf("it may do %v", rights)
	}
	revoke(t, s, 3, Statement{}.Revoke(agentID(1), NeverEnds))
	if _, _, ok := s.Backbone(agentID(1)); ok || len(s.Gateways()) > 0 {
		t.Error("a gateway that is revoked stays")
	}
}

func FuzzParseArea(f *testing.F) {
	f.Add(areaBody(f, func(*Area) {}))
	f.Add(areaBody(f, func(a *Area) { a.Tree, a.Gateways = nil, nil }))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseArea(b)
		if err != nil {
			return
		}
		for i := range a.Tree {
			if len(a.Way(i)) > len(a.Tree) {
				t.Fatal("a ring")
			}
		}
		c, err := a.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseArea(c)
		if err != nil || again.Number != a.Number || again.Size != a.Size || !slices.Equal(again.Tree, a.Tree) || !slices.Equal(again.Gateways, a.Gateways) {
			t.Fatalf("%+v comes back as %+v, %v", a, again, err)
		}
	})
}

func FuzzReceiveDivided(f *testing.F) {
	f.Add(message(sectionAreas, []byte{0, 0, 0, 7}))
	f.Add(message(sectionSums, []byte{wide}, make([]byte, 8*parts)))
	f.Add(message(sectionPart, []byte{local}, key{}.append(nil), lastKey.append(nil), stampOf(member(1, 1)).append(nil)))
	f.Add(message(sectionSeek, make([]byte, 8)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := NewStore(agentID(2), testKey(7), 1, Limits{Origins: 2})
		s.Enter(at(0), 7)
		s.Publish(at(0), member(2, 0))
		s.Connected(at(0), agentID(1))
		s.Connected(at(0), agentID(3))
		_ = s.Receive(at(0), agentID(1), msg)
		s.Flush(func(_ overlay.AgentID, m []byte) {
			if len(m) > MaxMessage {
				t.Fatalf("sent a message of %d bytes", len(m))
			}
		})
		if s.asked.len() > 9 || s.shelf.len() != len(s.shelf.names) {
			t.Fatal("grew")
		}
	})
}
