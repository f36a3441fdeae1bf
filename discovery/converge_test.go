package discovery

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"farlan/overlay"
)

// A cluster is a number of stores with a network between them that delays and
// loses messages, run on virtual time.
type cluster struct {
	rand   *rand.Rand
	stores []*Store
	up     map[[2]int]bool
	now    overlay.Instant
	flight []flying
	loss   float64
	mute   map[int]bool // who neither hears nor is heard, unnoticed
	sent   map[byte]int // sections of each type
	number map[overlay.AgentID]int
	known  Archive // what one of them has verified the others needn't
}

type flying struct {
	at       overlay.Instant
	from, to int
	msg      []byte
}

func newCluster(n int, seed uint64, loss float64) *cluster {
	c := &cluster{rand: rand.New(rand.NewPCG(seed, 1)), up: make(map[[2]int]bool), now: at(0), loss: loss, mute: make(map[int]bool), sent: make(map[byte]int), number: make(map[overlay.AgentID]int)}
	for i := range n {
		c.number[agentID(i)] = i
		c.stores = append(c.stores, c.store(i, seed*1000+uint64(i)))
	}
	return c
}

// store returns a store that knows nothing.
func (c *cluster) store(i int, seed uint64) *Store {
	s := NewStore(agentID(i), testKey(7), seed, Limits{})
	s.Share(&c.known)
	return s
}

func (c *cluster) connect(i, j int) {
	if i != j && !c.up[[2]int{i, j}] {
		c.up[[2]int{i, j}], c.up[[2]int{j, i}] = true, true
		c.stores[i].Connected(c.now, agentID(j))
		c.stores[j].Connected(c.now, agentID(i))
	}
}

func (c *cluster) disconnect(i int) {
	for j := range c.stores {
		if c.up[[2]int{i, j}] {
			delete(c.up, [2]int{i, j})
			delete(c.up, [2]int{j, i})
			c.stores[i].Disconnected(agentID(j))
			c.stores[j].Disconnected(agentID(i))
		}
	}
}

func (c *cluster) publish(i int) {
	s := c.stores[i]
	v := s.NextVersion(c.now)
	s.Publish(c.now, signed(i, KindMember, v, start+3600, memberBody(fmt.Sprint("agent", i, "-", v))))
}

// step runs for 50 ms.
func (c *cluster) step(t *testing.T) {
	c.now = c.now.Add(50 * time.Millisecond)
	late := c.flight[:0:0]
	for _, f := range c.flight {
		if f.at > c.now {
			late = append(late, f)
		} else if c.up[[2]int{f.from, f.to}] && !c.mute[f.from] && !c.mute[f.to] {
			if err := c.stores[f.to].Receive(c.now, agentID(f.from), f.msg); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.flight = late
	for i, s := range c.stores {
		s.Tick(c.now)
		s.Flush(func(to overlay.AgentID, msg []byte) {
			c.count(msg)
			if c.rand.Float64() >= c.loss {
				delay := time.Duration(c.rand.IntN(200)) * time.Millisecond
				c.flight = append(c.flight, flying{c.now.Add(delay), i, c.number[to], msg})
			}
		})
	}
}

func (c *cluster) count(msg []byte) {
	for rest := msg[1:]; len(rest) > 0; {
		typ, _, next, _ := cutSection(rest)
		c.sent[typ]++
		rest = next
	}
}

// run goes on for a while.
func (c *cluster) run(t *testing.T, d time.Duration) {
	for end := c.now.Add(d); c.now < end; {
		c.step(t)
	}
}

// until goes on until it is so, and says how long that took.
func (c *cluster) until(t *testing.T, limit time.Duration, what string, is func() bool) time.Duration {
	t.Helper()
	began := c.now
	for !is() {
		if c.now.Sub(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		c.step(t)
	}
	return c.now.Sub(began)
}

func (c *cluster) agree() bool {
	for _, s := range c.stores[1:] {
		if s.Hash() != c.stores[0].Hash() {
			return false
		}
	}
	return true
}

// Fifty stores on a random graph that lose a fifth of all messages, with agents
// that publish, fall off and come back, all end up with the same records; and
// a seed always gives the same run.
func TestConvergence(t *testing.T) {
	for seed := range uint64(2) {
		first := converge(t, seed)
		if seed == 0 && !reflect.DeepEqual(first, converge(t, seed)) {
			t.Error("the same seed ran differently")
		}
	}
}

func converge(t *testing.T, seed uint64) [][]byte {
	const n = 50
	c := newCluster(n, seed, 0.2)
	for i := range n {
		c.connect(i, (i+1)%n)
		c.connect(i, c.rand.IntN(n))
		c.publish(i)
	}
	for step := range 200 {
		switch i := c.rand.IntN(n); step % 20 {
		case 0:
			c.publish(i)
		case 5:
			c.disconnect(i)
		case 10:
			c.connect(i, c.rand.IntN(n))
		case 15: // restarts with lost state
			c.disconnect(i)
			c.stores[i] = c.store(i, uint64(step))
			c.publish(i)
		}
		c.step(t)
	}
	for i := range n {
		c.connect(i, (i+1)%n)
	}
	quiet := c.now
	for !c.agree() {
		c.step(t)
		if c.now.Sub(quiet) > 2*time.Minute {
			t.Fatalf("seed %d: no agreement after two quiet minutes", seed)
		}
	}
	t.Logf("seed %d: agreement after %v", seed, c.now.Sub(quiet))
	dump := c.stores[0].Dump()
	if len(dump) != n {
		t.Errorf("seed %d: %d records of %d", seed, len(dump), n)
	}
	for i, s := range c.stores {
		if !reflect.DeepEqual(s.Dump(), dump) {
			t.Errorf("seed %d: store %d has other records", seed, i)
		}
		if own, _ := s.Record(agentID(i), KindMember); own.Version != s.OwnVersion() {
			t.Errorf("seed %d: store %d knows a higher own version than it has", seed, i)
		}
	}
	return dump
}

// In a network without loss an update reaches everybody by the pushes alone.
func TestPush(t *testing.T) {
	c := newCluster(30, 1, 0)
	for i := range c.stores {
		c.connect(i, (i+1)%30)
		c.connect(i, c.rand.IntN(30))
	}
	for range 40 {
		c.step(t)
	}
	c.publish(3)
	for range 8 * 5 { // at most eight hops of 250 ms
		c.step(t)
	}
	if !c.agree() {
		t.Error("no agreement")
	}
}
