//go:build linux

package tc

import (
	"encoding/binary"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"

	"farlan/reserve"
)

func TestShape(t *testing.T) {
	for name, c := range map[string]struct {
		line line
		rate reserve.Rate
		want shape
	}{
		"100 Mbit/s": {
			line{100 * reserve.Mbit, 1500, 14, 0},
			60 * reserve.Mbit,
			shape{rate: 7_570_000, ceil: 12_616_666, prio: 1, quantum: 12_616, burst: 78_125, cburst: 31_249, queue: 189_250, target: 5000},
		},
		"a slow one, whose full packets take long": {
			line{reserve.Mbit, 1500, 14, 0},
			100,
			shape{rate: 12_616, ceil: 126_166, prio: 1, quantum: 1514, burst: 1_875_099, cburst: 187_500, queue: minQueue, target: 180_009},
		},
		"long packets: the quantum is a full one": {
			line{10 * reserve.Mbit, 9000, 14, 0},
			reserve.Mbit,
			shape{rate: 125_194, ceil: 1_251_944, prio: 1, quantum: 9014, burst: 1_125_003, cburst: 112_500, queue: minQueue, target: 107_998 + 2},
		},
		"beyond 32 bits of bytes a second": {
			line{100 * reserve.Gbit, 1500, 0, 0},
			40 * reserve.Gbit,
			shape{rate: 5_000_000_000, ceil: 12_500_000_000, prio: 1, quantum: maxAggregate, burst: 78_125, cburst: 31_250, queue: maxQueue, target: 5000},
		},
		"the slowest": {
			line{1, 65535, 14, 0},
			1,
			shape{rate: 125, ceil: 125, prio: 1, quantum: 65549, burst: math.MaxUint32, cburst: math.MaxUint32, queue: 131_098, target: 1_000_000},
		},
		"no MTU": {
			line{100 * reserve.Mbit, 0, 0, 0},
			60 * reserve.Mbit,
			shape{rate: 7_500_000, ceil: 12_500_000, prio: 1, quantum: 12_500, burst: 78_125, cburst: 31_250, queue: 187_500, target: 5000},
		},
	} {
		if got := c.line.shape(c.rate, grantBurst); got != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, c.want)
		}
	}
}

// Whatever an interface is, a rate comes back from what the kernel is told, no quantum is less
// than a full packet, and nothing overflows.
func TestShapesAreSound(t *testing.T) {
	for _, mtu := range []int{-1, 0, 68, 576, 1280, 1500, 9000, 65535} {
		for _, header := range []int{0, 14} {
			for r := reserve.Rate(1); r <= 10_000*reserve.Gbit; r = r*3 + 1 {
				l := line{10_000 * reserve.Gbit, mtu, header, 0}
				if back := l.packets(l.wire(r)); back != r {
					t.Fatalf("%+v: %v comes back as %v", l, r, back)
				}
				s := l.shape(r, grantBurst)
				full := uint32(l.packet() + header)
				if s.quantum < full || s.quantum > max(full, maxAggregate) || s.rate == 0 || s.rate > s.ceil || uint32(s.rate) == 0 || s.burst == 0 || s.queue < minQueue || s.queue > maxQueue {
					t.Fatalf("%+v, %v: %+v", l, r, s)
				}
			}
		}
	}
	if l := (line{reserve.Mbit, 1500, 0, 0}); l.wire(1<<32) != 1<<32*125+1 {
		t.Error("a multiple of 2³² bytes a second isn't avoided")
	}
	if r := (line{reserve.Mbit, 1500, 14, 0}).packets(math.MaxUint64); r <= 0 {
		t.Errorf("the greatest rate is %v", r)
	}
	if n := ticks(12_500_000, 12_500); time.Duration(n)*64*time.Nanosecond != time.Millisecond {
		t.Errorf("12.5 KB at 100 Mbit/s take %d ticks", n)
	}
}

// What is kept for all that isn't reserved, and what may be, is 0.9 of a way out.
func TestFixedClasses(t *testing.T) {
	for r := reserve.Rate(100); r <= 10_000*reserve.Gbit; r *= 7 {
		l := line{r, 1500, 14, reserve.Budget{Rate: r}.Rest()}
		all, urgent, rest := l.fixed()
		sum := urgent.rate + rest.rate + l.wire(reserve.Budget{Rate: r}.Most())
		if all.rate != all.ceil || sum > all.rate*9/10+3 || sum < all.rate*87/100 || urgent.prio >= rest.prio || urgent.ceil > all.ceil/2 || rest.ceil != all.ceil || urgent.rate == 0 {
			t.Errorf("%v: all %+v, urgent %+v, rest %+v", r, all, urgent, rest)
		}
	}
	if _, urgent, _ := (line{1, 1500, 14, 0}).fixed(); urgent.rate == 0 || urgent.ceil < urgent.rate {
		t.Errorf("of a very slow one %+v is urgent", urgent)
	}
}

// The kernel's counters wrap and begin anew; ours don't.
func TestCounted(t *testing.T) {
	var c counted
	for _, s := range []seen{
		{bytes: 1000 * 1514, packets: 1000, dropped: 5, backlog: 99},
		{bytes: 5_000_000_000 * 1514, packets: 705_032_704, dropped: 5}, // 5·10⁹ less 2³²
		{bytes: 5_000_001_000 * 1514, packets: 705_033_704, dropped: 7},
		{bytes: 10 * 1514, packets: 10, dropped: 1}, // another class, of which nobody told
	} {
		c.add(14, s)
	}
	// What passes in 4 billion packets between two looks isn't seen to wrap.
	lost := uint64(1) << 32
	if want := (reserve.Usage{Packets: 5_000_001_010 - lost, Bytes: 5_000_001_010*1500 + lost*14, Dropped: 8}); c.total != want {
		t.Errorf("%+v, want %+v", c.total, want)
	}
	c.add(14, seen{bytes: 20 * 1514, packets: 20, dropped: 1, backlog: 7})
	c.restart()
	if c.total.Backlog != 0 {
		t.Error("what waited in a class that is gone waits")
	}
	before := c.total
	c.add(14, seen{bytes: 1514, packets: 1})
	if c.total.Bytes != before.Bytes+1500 || c.total.Packets != before.Packets+1 {
		t.Errorf("%+v after %+v and one packet more", c.total, before)
	}
}

// Not every kernel has fq_codel, so this is what such a one is told.
func TestFairQueueOptions(t *testing.T) {
	attrs, err := nl.ParseRouteAttr(fairOptions(shape{target: 7000}).Serialize()[4:])
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[uint16]uint32)
	for _, a := range attrs {
		got[a.Attr.Type] = binary.NativeEndian.Uint32(a.Value)
	}
	// TCA_FQ_CODEL_TARGET, …_INTERVAL, …_MEMORY_LIMIT of linux/pkt_sched.h.
	if want := (map[uint16]uint32{1: 7000, 3: 102_000, 9: maxQueue}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestHandles(t *testing.T) {
	for _, c := range []struct {
		device string
		minor  uint16
	}{{"eth0", 0x10}, {"a.b@c", 0xffef}, {"7fa1:10", 0x1234}} {
		s := handleOf(c.device, c.minor)
		if device, minor, ok := parseHandle(s); !ok || device != c.device || minor != c.minor {
			t.Errorf("%q is %q, %x, %v", s, device, minor, ok)
		}
	}
	for _, s := range []string{"", " ", "eth0", "eth0 ", " 7fa1:10", "eth0 7fa1:", "eth0 7fa1:f", "eth0 7fa1:fff0", "eth0 7fa1:10000", "eth0 1:10", "eth0 7fa1:010", "eth0 7fa1:1A", "eth0 7fa1:10 "} {
		if device, minor, ok := parseHandle(s); ok {
			t.Errorf("%q is %q, %x", s, device, minor)
		}
	}
}

func FuzzParseHandle(f *testing.F) {
	f.Add("eth0 7fa1:10")
	f.Fuzz(func(t *testing.T, s string) {
		if device, minor, ok := parseHandle(s); ok && handleOf(device, minor) != s {
			t.Fatalf("%q is %q, %x", s, device, minor)
		}
	})
}

// Numbers begin where the ID says and pass those that are taken, around the end.
func TestNumbers(t *testing.T) {
	used := make(map[uint16]bool)
	var id reserve.ID
	id.Reservation[0], id.Reservation[1] = 0xff, 0xdf
	for _, want := range []uint16{0xffef, 0x10, 0x11} {
		m := minorOf(id, used)
		if m != want {
			t.Errorf("%x, want %x", m, want)
		}
		used[m] = true
	}
	id.Segment = 5
	if m := minorOf(id, used); m != 0x14 {
		t.Errorf("another segment has %x, want 14", m)
	}
}
