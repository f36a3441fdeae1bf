package p2p

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A step of time and of what comes then.
func TestFresh(t *testing.T) {
	start := time.Unix(1_900_000_000, 0)
	f := fresh{self: [6]byte{9}}
	for i, step := range []struct {
		sender byte
		number uint64
		at     time.Duration // since start, of the seal
		now    time.Duration
		want   bool
	}{
		{1, 5, 0, 0, true},
		{1, 5, 0, 0, false}, // again
		{2, 5, 0, 0, true},  // another sender
		{1, 3, 0, 0, true},  // overtaken
		{1, 3, 0, 0, false},
		{1, 7000, 0, time.Minute, true},
		{1, 5, 0, time.Minute, false},                 // too old
		{1, 7000 - 31*64 + 1, 0, time.Minute, true},   // just not
		{1, 7000 - 31*64, 0, time.Minute, false},      // just too old
		{1, 7064, 0, ClockLimit, true},                // at the limit
		{1, 7065, 0, ClockLimit + time.Second, false}, // beyond
		{1, 7065, ClockLimit, 0, true},                // the same to the other side
		{1, 7066, ClockLimit + time.Second, 0, false},
		{9, 1, 0, 0, false}, // ours
	} {
		h := head{sender: [6]byte{step.sender}, number: step.number, time: uint32(start.Add(step.at).Unix())}
		if got := f.take(h, start.Add(step.now)); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	if replays, untimely := f.dropped(); replays != 5 || untimely != 2 {
		t.Errorf("%d replays and %d untimely", replays, untimely)
	}
}

// Every number passes once at most, in whatever order, and once if it isn't old.
func FuzzFresh(f *testing.F) {
	f.Add([]byte{1, 1, 255, 3, 0, 3, 64, 64, 128})
	f.Fuzz(func(t *testing.T, steps []byte) {
		fr := fresh{self: [6]byte{9}}
		taken := make(map[uint64]bool)
		number, top := uint64(1<<40), uint64(0)
		for _, s := range steps {
			number += uint64(int64(int8(s)) * 17)
			if top == 0 {
				top = number
			}
			want := !taken[number] && (number > top || top-number < (seenWords-1)*64)
			if got := fr.take(head{number: number}, time.Unix(0, 0)); got != want {
				t.Fatalf("%d after %d: %v", number, top, got)
			}
			taken[number] = true
			top = max(top, number)
		}
	})
}

// Times wrap around in 2106.
func TestOffset(t *testing.T) {
	for _, at := range []int64{0, 1_900_000_000, 1<<32 - 1, 1 << 32} {
		for _, d := range []time.Duration{0, time.Hour, -time.Hour, 50 * 365 * 24 * time.Hour} {
			now := time.Unix(at, 0)
			if got := offset(uint32(now.Add(-d).Unix()), now); got != d {
				t.Errorf("at %d: %v, want %v", at, got, d)
			}
		}
	}
}

// The table of senders is bounded: the oldest goes.
func TestSenders(t *testing.T) {
	f := fresh{self: [6]byte{5: 9}}
	sender := func(i int) head { return head{sender: [6]byte{byte(i >> 8), byte(i)}, number: 1} }
	for i := range maxSenders + 1 {
		if !f.take(sender(i), time.Unix(0, 0)) {
			t.Errorf("sender %d isn't taken", i)
		}
	}
	if len(f.seen) != maxSenders || len(f.place) != maxSenders {
		t.Errorf("%d senders in %d places", len(f.place), len(f.seen))
	}
	for i := range maxSenders {
		if f.take(sender(i+1), time.Unix(0, 0)) {
			t.Errorf("sender %d is taken again", i+1)
		}
	}
	if !f.take(sender(0), time.Unix(0, 0)) {
		t.Error("the oldest isn't forgotten")
	}
}

// A recorder keeps what is sent.
type recorder struct {
	net.PacketConn
	mu   sync.Mutex
	sent [][]byte
}

func (r *recorder) WriteTo(b []byte, to net.Addr) (int, error) {
	r.mu.Lock()
	r.sent = append(r.sent, slices.Clone(b))
	r.mu.Unlock()
	return r.PacketConn.WriteTo(b, to)
}

func (r *recorder) all() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

// wrongClock starts an agent whose clock is ahead, or behind.
func wrongClock(t *testing.T, i int, ahead time.Duration, seeds ...Seed) *agent {
	t.Helper()
	return startWith(t, testNetwork(1), i, []net.PacketConn{udp(t)}, func(c *Config) {
		c.Bootstrap = seeds
		c.Clock = func() time.Time { return time.Now().Add(ahead) }
	})
}

// What a member sent gets nothing when anybody sends it again: openings of
// connections, and what belongs to one that lives, is being closed, or is gone.
func TestReplay(t *testing.T) {
	var mu sync.Mutex
	var later time.Duration
	a := startWith(t, testNetwork(1), 0, []net.PacketConn{udp(t)}, func(c *Config) {
		c.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(later) }
	})
	r := &recorder{PacketConn: udp(t)}
	b := startOn(t, testNetwork(1), 1, []net.PacketConn{r}, a.seed)
	eventually(t, 5*time.Second, "connected", func() bool { return a.Joined() && b.Joined() })
	b.Send(a.self, []byte("hello"))
	eventually(t, 5*time.Second, "a message passes", func() bool { return a.got(b.self.Short() + ": hello") })

	other, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(a.seed.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	again := func(c net.Conn, count func(Counters) uint64) {
		t.Helper()
		before, sent := count(a.Counters()), r.all()
		for i, p := range sent {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, fmt.Sprintf("datagram %d is dropped", i), func() bool {
				return count(a.Counters()) > before+uint64(i)
			})
		}
		silent(t, c)
	}
	replays := func(c Counters) uint64 { return c.Replays }
	again(other, replays)
	b.stop(t)
	again(other, replays)
	// From its own address.
	same, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(b.seed.Addr), net.UDPAddrFromAddrPort(a.seed.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	again(same, replays)
	eventually(t, 10*time.Second, "the connection is gone", func() bool { return !a.Joined() })
	again(same, replays)
	// Later, when it is too old for anybody.
	mu.Lock()
	later = ClockLimit + 10*time.Second
	mu.Unlock()
	again(other, func(c Counters) uint64 { return c.Untimely })
	c := start(t, testNetwork(1), 2)
	_ = c.Dial(t.Context(), a.self, []netip.AddrPort{a.seed.Addr})
	if a.Joined() {
		t.Error("a member of another time is let in")
	}
	if s := a.Counters().Strangers; s != 0 {
		t.Errorf("%d strangers", s)
	}
}

// Clocks may differ by less than the limit.
func TestClockWithinLimit(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := wrongClock(t, 1, ClockLimit-10*time.Second, a.seed)
	c := wrongClock(t, 2, 10*time.Second-ClockLimit, a.seed)
	eventually(t, 5*time.Second, "both are let in", func() bool { return b.Joined() && c.Joined() })
	for _, x := range []*agent{a, b, c} {
		if skew, ok := x.ClockSkew(); ok {
			t.Errorf("a clock is said to be wrong by %v", skew)
		}
	}
}

// Who has a wrong clock isn't heard, and is told as soon as others call it.
func TestClockSkew(t *testing.T) {
	a := start(t, testNetwork(1), 0)
	b := start(t, testNetwork(1), 1, a.seed)
	eventually(t, 5*time.Second, "joined", func() bool { return a.Joined() && b.Joined() })
	for i, ahead := range []time.Duration{time.Hour, -24 * time.Hour} {
		x := wrongClock(t, 2+i, ahead, a.seed)
		eventually(t, 10*time.Second, "the error is told", func() bool { return x.JoinError() != "" })
		if !strings.Contains(x.JoinError(), "clocks right to 2m0s") {
			t.Errorf("join error %q", x.JoinError())
		}
		if a.Counters().Untimely == 0 {
			t.Error("nothing is untimely")
		}
		_ = a.Dial(t.Context(), x.self, []netip.AddrPort{x.seed.Addr})
		if skew, ok := x.ClockSkew(); !ok || (skew-ahead).Abs() > 2*time.Second {
			t.Errorf("the clock is wrong by %v, %v; want %v", skew, ok, ahead)
		}
		if got := x.JoinError(); !strings.HasPrefix(got, "this host's clock is ") || strings.Contains(got, "ahead of") != (ahead > 0) {
			t.Errorf("join error %q with a clock ahead by %v", got, ahead)
		}
		if skew, ok := a.ClockSkew(); ok {
			t.Errorf("the others' clocks are said to be wrong by %v", skew)
		}
		x.stop(t)
	}
}
