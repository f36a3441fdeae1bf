package route

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"farlan/overlay"
)

// A reader takes values from bytes, zeros when they end; every few values it takes one
// of those that break sums.
type reader []byte

func (r *reader) byte() byte {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return b
}

func (r *reader) value() uint32 {
	switch b := r.byte(); {
	case b < 32:
		return 0
	case b < 64:
		return 1<<32 - 1
	case b < 80:
		return 1 << 31 // the lowest of those with a sign
	case b < 96:
		return 1<<31 - 1
	case b < 104:
		return LossUnit
	case b < 112:
		return LossUnit - 1
	case b < 128:
		return 1
	default:
		var v [4]byte
		for i := range v {
			v[i] = r.byte()
		}
		return binary.BigEndian.Uint32(v[:]) >> (b % 32)
	}
}

// hostileWorld reads facts: agents may be missing, there twice, or have links to
// themselves, and ends tell what they like.
func hostileWorld(r *reader) *world {
	n := 2 + int(r.byte())%14
	w := newWorld(n)
	for i := range w.nodes {
		flags := r.byte()
		w.nodes[i] = Node{id(i), flags&7 == 0, r.value(), r.value(), r.value(), r.value()}
		if flags&0xf0 == 0 {
			w.nodes[i].ID = id(int(r.byte()) % n)
		}
	}
	for len(*r) > 0 && len(w.links) < 200 {
		a, b, flags := int(r.byte())%(n+1), int(r.byte())%(n+1), r.byte()
		l := Link{id(a), id(b), r.value(), r.value(), r.value(), r.value(), r.value(), flags&7 > 0, flags&0xf0 == 0}
		w.links = append(w.links, l)
		if flags&8 == 0 { // the other end agrees
			l.From, l.To = l.To, l.From
			w.links = append(w.links, l)
		}
	}
	return w
}

// FuzzFacts: whatever agents tell, paths are valid and don't pass a node twice, in any
// order of facts the same ones; trees end; and explaining doesn't panic.
func FuzzFacts(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 9))
	for range 20 {
		b := make([]byte, 40+r.IntN(400))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return
		}
		w := hostileWorld((*reader)(&b))
		g := w.graph()
		if !slices.Equal(everything(g), everything(w.shuffled(rand.New(rand.NewPCG(1, uint64(len(b))))))) {
			t.Error("another order of facts, other results")
		}
		checkAll(t, g)
	})
}

// checkAll looks at all that is found on a graph.
func checkAll(t *testing.T, g *Graph) {
	var f Finder
	var table Table
	var tree Tree
	for from := range int32(g.Len()) {
		for _, c := range []overlay.Class{overlay.ClassDelay, overlay.ClassBulk} {
			if c == overlay.ClassDelay {
				f.Delay(g, from, &table)
			} else {
				f.Bulk(g, from, []Load{{Path{from, (from + 1) % int32(g.Len())}, -1 << 63}, {Path{(from + 1) % int32(g.Len()), from}, 1<<63 - 1}}, &table)
			}
			for to := range int32(g.Len()) {
				p := table.Path(to)
				if p == nil {
					continue
				}
				if why := g.valid(p); why != None || p[0] != from || p[len(p)-1] != to {
					t.Fatalf("%d to %d: %v: %v", from, to, p, why)
				}
				if x, _ := f.Figures(g, p, nil); x.CostMicros < hopMicros || x.CostMicros > 15*maxMicros {
					t.Fatalf("%v costs %d µs", p, x.CostMicros)
				}
				if q, _ := f.Alternate(g, p); q != nil && g.valid(q) != None {
					t.Fatalf("alternate %v: %v", q, g.valid(q))
				}
			}
		}
		to := (from*7 + 1) % int32(g.Len())
		f.Explain(g, overlay.ClassDelay, Pair{From: from, To: to}, nil)
		x := f.Explain(g, overlay.ClassBulk, Pair{from, to, table.Path(to), 1<<32 - 1, uint32(from) << 29}, nil)
		if len(x.Rejected) > MaxRejected || len(x.Changes) > MaxHops {
			t.Fatalf("%d rejected, %d changes", len(x.Rejected), len(x.Changes))
		}
		f.Tree(g, from, &tree)
		one := func(int32, int) *Tree { return &tree }
		if taken, sent := spread(g.Len(), one, from, 10_000, (*Tree).Accept); slices.Max(taken) > 1 || sent >= g.Len() {
			t.Fatalf("a broadcast is sent %d times, taken %v", sent, taken)
		}
	}
}

// FuzzQuestions: nor does it matter what paths and agents are asked for.
func FuzzQuestions(f *testing.F) {
	w := randomWorld(rand.New(rand.NewPCG(3, 3)), 12, 0.2, false)
	g := w.graph()
	f.Add([]byte{0, 1, 3, 0, 1, 2}, int32(0), int32(5), int64(1000))
	f.Add([]byte{0, 0, 200}, int32(-1), int32(1<<30), int64(-1<<63))
	f.Add(slices.Repeat([]byte{1, 2}, 20), int32(1), int32(2), int64(1<<63-1))
	f.Add([]byte{3, 4, 5, 6}, int32(3), int32(6), int64(5))
	f.Fuzz(func(t *testing.T, b []byte, from, to int32, kbit int64) {
		var finder Finder
		var table Table
		var tree Tree
		p := make(Path, 0, len(b))
		for _, v := range b {
			p = append(p, int32(int8(v)))
		}
		finder.Delay(g, from, &table)
		finder.Bulk(g, from, []Load{{p, kbit}}, &table)
		if q := table.Path(to); q != nil && g.valid(q) != None {
			t.Errorf("%v: %v", q, g.valid(q))
		}
		if q, _ := finder.Alternate(g, p); q != nil && (g.valid(q) != None || slices.Equal(q, p)) {
			t.Errorf("alternate %v to %v", q, p)
		}
		finder.Figures(g, p, []Load{{p, kbit}})
		if c := finder.Choose(g, Pair{from, to, p, uint32(kbit), uint32(kbit >> 32)}, []Load{{p, kbit}}); c.Path != nil && g.valid(c.Path) != None {
			t.Errorf("chose %v: %v", c.Path, g.valid(c.Path))
		}
		finder.Explain(g, overlay.Class(kbit&3), Pair{from, to, p, uint32(kbit), 1 << 31}, nil)
		stations := []Station{{from, false}, {to, false}, {2, kbit&1 == 0}}
		flows := []Flow{{0, 1, uint32(kbit)}, {1, 0, uint32(kbit >> 16)}, {int(from), int(to), 1 << 31}, {2, 0, uint32(kbit >> 32)}}
		for _, x := range finder.Advise(g, p, stations, flows) {
			if x.Will >= x.Was || !slices.Contains(p, x.To) || stations[x.Station].Fixed {
				t.Errorf("advice %+v", x)
			}
		}
		finder.Tree(g, from, &tree)
		tree.Accept(to, from, int(kbit))
		tree.Children(to)
		tree.Depth(to)
	})
}

// Also the empty graph answers.
func TestNobody(t *testing.T) {
	var f Finder
	var table Table
	var tree Tree
	g := New(nil, []Link{{From: id(1), To: id(2), Up: true}})
	f.Delay(g, 0, &table)
	f.Bulk(g, 0, nil, &table)
	f.Tree(g, 0, &tree)
	x := f.Explain(g, overlay.ClassBulk, Pair{From: 0, To: 1}, nil)
	if table.Path(0) != nil || tree.Children(0) != nil || f.Agreed(g, 1, 3) != 0 || x.Chosen.Path != nil {
		t.Error("there is something in an empty graph")
	}
	if new(Table).Path(0) != nil || new(Tree).Children(0) != nil || new(Tree).Accept(0, 1, 1) {
		t.Error("there is something in zero values")
	}
}
