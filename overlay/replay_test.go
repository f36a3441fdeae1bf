package overlay

import (
	"encoding/binary"
	"math"
	"testing"
)

// slowWindow is what a window does, told plainly.
type slowWindow struct {
	top  uint64
	seen map[uint64]bool
}

func (w *slowWindow) accept(c uint64) bool {
	if c < w.top && w.top-c >= windowSize || w.seen[c] {
		return false
	}
	w.seen[c] = true
	w.top = max(w.top, c)
	return true
}

func TestWindow(t *testing.T) {
	const top = math.MaxUint64
	type step struct {
		counter uint64
		want    bool
	}
	for name, steps := range map[string][]step{
		"zero first":       {{0, true}, {0, false}, {1, true}, {0, false}, {1, false}},
		"zero late":        {{1, true}, {0, true}, {0, false}},
		"in order":         {{0, true}, {1, true}, {2, true}, {63, true}, {64, true}, {65, true}, {64, false}},
		"backwards":        {{130, true}, {129, true}, {128, true}, {127, true}, {64, true}, {63, true}, {0, true}, {127, false}},
		"edge of the past": {{windowSize, true}, {0, false}, {1, true}, {1, false}, {windowSize - 1, true}},
		"one step further": {{windowSize - 1, true}, {0, true}, {windowSize, true}, {0, false}, {1, true}},
		"ring comes round": {{5, true}, {windowWords*64 + 5, true}, {5, false}, {windowWords*64 + 4, true}, {2*windowWords*64 + 5, true}, {windowWords*64 + 5, false}},
		"same word, a round later": {
			{70, true}, {windowWords*64 + 64, true}, {71, false}, {windowWords*64 + 70, true}, {windowWords*64 + 71, true}, {windowWords*64 + 70, false},
		},
		"far jump":             {{7, true}, {1 << 40, true}, {7, false}, {1<<40 - 1, true}, {1<<40 - 7, true}, {1<<40 - windowSize, false}, {1<<40 - windowSize + 1, true}, {1<<40 + 9, true}, {1<<40 + 7, true}},
		"jump of one window":   {{3, true}, {3 + windowSize, true}, {3, false}, {4, true}},
		"last counter":         {{top, true}, {top, false}, {top - 1, true}, {top - windowSize + 1, true}, {top - windowSize, false}, {0, false}},
		"from last's neighbor": {{top - 1, true}, {top, true}, {top - 1, false}, {top, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var w window
			for i, s := range steps {
				if got := w.check(s.counter); got != s.want {
					t.Fatalf("step %d: check(%d) = %v, want %v", i, s.counter, got, s.want)
				}
				if got := w.accept(s.counter); got != s.want {
					t.Fatalf("step %d: accept(%d) = %v, want %v", i, s.counter, got, s.want)
				}
			}
		})
	}
}

// A sliding stream takes the ring through several rounds; each counter is
// accepted once, whatever the order within the window.
func TestWindowSlides(t *testing.T) {
	var w window
	const stride = 997 // a prime: mixes the order within each block
	for base := uint64(0); base < 4*windowWords*64; base += stride {
		for i := range uint64(stride) {
			if c := base + i*31%stride; !w.accept(c) || w.accept(c) {
				t.Fatalf("counter %d not accepted exactly once", c)
			}
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 0, 0, 1})
	f.Add([]byte{3, 255, 255, 255, 0, 0, 5, 4, 2, 1, 0, 255, 190})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w window
		slow := slowWindow{seen: make(map[uint64]bool)}
		for ; len(b) >= 4; b = b[4:] {
			// A step from the highest counter, of any size, either way; a first
			// byte of 3 turns to the other end of the numbers.
			d := uint64(binary.BigEndian.Uint16(b[1:3])) << (b[3] % 32)
			var c uint64
			switch b[0] % 4 {
			case 0:
				c = slow.top - min(d, slow.top)
			case 1:
				c = slow.top + min(d, math.MaxUint64-slow.top)
			case 2:
				c = d
			case 3:
				c = math.MaxUint64 - d
			}
			check := w.check(c)
			if got, want := w.accept(c), slow.accept(c); got != want || check != want {
				t.Fatalf("counter %d with top %d: check %v, accept %v, want %v", c, slow.top, check, got, want)
			}
		}
	})
}

func TestReplaySeenCache(t *testing.T) {
	var c SeenCache
	mac := func(i int) (m [MACLen]byte) {
		binary.BigEndian.PutUint32(m[:], uint32(i))
		return m
	}
	for i := range seenInitiations {
		if c.Seen(mac(i)) {
			t.Fatalf("%d seen before it came", i)
		}
	}
	for i := range seenInitiations {
		if !c.Seen(mac(i)) {
			t.Fatalf("%d forgotten though there was room", i)
		}
	}
	if c.Seen(mac(seenInitiations)) || !c.Seen(mac(1)) || !c.Seen(mac(seenInitiations)) {
		t.Fatal("more than the oldest was forgotten")
	}
	if c.Seen(mac(0)) {
		t.Fatal("the oldest was kept in a full cache")
	}
	for i := range 3 * seenInitiations {
		c.Seen(mac(-i))
	}
	if len(c.seen) != seenInitiations {
		t.Fatalf("the cache holds %d, want %d", len(c.seen), seenInitiations)
	}
}
