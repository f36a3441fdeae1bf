package decide

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/mesh"
)

// Sizes say when a network is divided into areas, and areas are divided or join.
type Sizes struct {
	// Whole is how many agents a network has at most that isn't divided.
	Whole int
	// Most is how many an area has at most: with more it is divided, each part again. Least
	// is how many it has at least: with fewer it joins another one.
	Most, Least int
	// Join is how many a divided network has at least: with fewer it is one again.
	Join int
}

// Usual are everybody's sizes but in tests.
var Usual = Sizes{Whole: 1000, Most: 150, Least: 40, Join: 700}

// steadily is for how many epochs in a row an agent must see the same reason to move.
const steadily = 3

// A reason is why an agent had better be in another area.
type reason byte

const (
	none   reason = iota
	stray         // it belongs nowhere
	again         // the network is to be one again
	divide        // there are too many
	join          // there are too few
)

// wait returns for how many epochs in a row it must be seen.
func (r reason) wait() int {
	if r == stray {
		return 1
	}
	return steadily
}

// An Abode decides in which area an agent is. The zero Abode is ready, and pure; not safe
// for concurrent use.
type Abode struct {
	pending uint32 // where it is about to go
	why     reason
	seen    int
}

// A Situation is what an agent knows when it decides in which area it is.
type Situation struct {
	Self   overlay.AgentID
	Area   uint32
	Moving bool // it has just come
	// Gone says whether there is the record of a member that went from here to another area.
	Gone    func(area uint32) bool
	Picture *Picture // of the area
	Beyond  *Beyond
	// Predict returns what coordinates say that a link with a gateway costs, 0 where they
	// don't.
	Predict func(overlay.AgentID) int32
}

// Step returns the area in which the agent shall be, once in each epoch. It moves alone, when
// it has seen the reason in some epochs; all that have the same records do in the same one.
// Where to may change meanwhile, as what links cost does, which the halves of an area follow:
// who waited until that doesn't could wait for ever, so it goes by what is known at last.
// Who sees others go to where it was about to go itself goes, too: with them the reason goes.
func (a *Abode) Step(z Sizes, in Situation) uint32 {
	if in.Moving {
		*a = Abode{}
		return in.Area
	}
	if a.seen > 0 && a.pending != in.Area && in.Gone(a.pending) {
		return a.pending
	}
	next, why := z.next(in)
	switch {
	case next == in.Area:
		*a = Abode{}
		return in.Area
	case why != a.why:
		a.seen = 0
	}
	a.pending, a.why = next, why
	if a.seen++; a.seen < why.wait() {
		return in.Area
	}
	return next
}

// next returns where the agent had better be by what is known now, and why.
func (z Sizes) next(in Situation) (area uint32, why reason) {
	here := max(in.Picture.View.Agents(), in.Picture.crowd)
	total, own := in.Beyond.total, in.Beyond.sizes[in.Area] > 0
	self := in.Picture.View.Index(in.Self)
	switch {
	case self < 0: // one of too many
		return z.nearest(in), stray
	case in.Area == 0 && here < z.Least && total >= z.Join:
		return z.nearest(in), stray
	case in.Area != 0 && own && total < z.Join:
		return 0, again
	case in.Area == 0 && here > z.Whole, in.Area == 0 && total >= z.Join, in.Area != 0 && here > z.Most:
		area = in.Picture.divide(in.Area, z.Most)[self]
		if area == 0 { // what is left of a network that was divided
			area = child(0, rest)
		}
		return area, divide
	case in.Area != 0 && own && here < z.Least:
		return z.join(in, here), join
	}
	return in.Area, none
}

// sizesOf returns how many members areas have, as at least half of their gateways say: none can
// have more than they tell of by name. One gateway alone, which anybody can be in an area that he
// makes up, counts for itself and nobody else. So one member's word divides no network, and keeps
// none divided; and it makes an area seem smaller only where there is one other gateway.
func sizesOf(gates []Gate) (sizes map[uint32]int, total int) {
	all := make(map[uint32][]int)
	for _, g := range gates {
		all[g.Number] = append(all[g.Number], min(g.Size, len(g.Tree)+1))
	}
	sizes = make(map[uint32]int, len(all))
	for area, told := range all {
		slices.Sort(told)
		size := 1
		if len(told) > 1 {
			size = told[(len(told)-1)/2]
		}
		sizes[area] = size
		total += size
	}
	return sizes, total
}

// nearest returns the area of the nearest gateway that has room. An area of which one gateway
// alone tells may be a lie: it counts only if there is no other.
func (z Sizes) nearest(in Situation) uint32 {
	var best Gate
	least, several := int32(0), false
	for _, g := range in.Beyond.gates {
		d, others := in.Predict(g.ID), len(in.Beyond.of[g.Number]) > 1
		if d <= 0 || in.Beyond.sizes[g.Number] >= z.Most || several && !others {
			continue
		}
		if least == 0 || d < least || others && !several {
			best, least, several = g, d, others
		}
	}
	if least == 0 {
		return in.Area
	}
	return best.Number
}

// join returns the area that a small one had better be one with: the nearest of those that
// its gateways have links with which has room, and is larger; one that is too small itself only
// if there is no other, as that will join another one, too.
func (z Sizes) join(in Situation, here int) uint32 {
	gates, sizes := in.Beyond.gates, in.Beyond.sizes
	least, area, large := int32(0), in.Area, false
	for i := range gates {
		for _, r := range gates[i].Rows {
			j := findGate(gates, r.Peer)
			if gates[i].Number != in.Area || j < 0 || gates[j].Number == in.Area || r.RTT == 0 {
				continue
			}
			other := gates[j].Number
			n := sizes[other]
			larger := cmp.Or(cmp.Compare(n, sizes[in.Area]), cmp.Compare(other, in.Area)) > 0
			d, enough := int32(min(micros(r.RTT), mesh.MaxCost)), n >= z.Least
			if !larger || n+here > z.Most || large && !enough {
				continue
			}
			if least == 0 || enough && !large || d < least || d == least && other < area {
				least, area, large = d, other, enough
			}
		}
	}
	return area
}

// divide returns for each agent of the picture the area in which it is when the area is
// divided until no part has more than so many.
func (p *Picture) divide(area uint32, most int) []uint32 {
	if p.divided == nil {
		p.divided = make([]uint32, len(p.Facts.Agents))
		all := make([]int, len(p.divided))
		for i := range all {
			all[i] = i
		}
		p.part(area, all, most)
	}
	return p.divided
}

// part divides some agents in two by which of two poles is nearer: two that are far from each
// other. Each half gets a third at least, and between them is the largest gap there. Which of
// them is which doesn't depend on the poles, of which each may become the other as soon as a
// link costs a little more: the first agent is in the second one.
func (p *Picture) part(area uint32, who []int, most int) {
	for _, i := range who {
		p.divided[i] = area
	}
	if len(who) <= max(most, 2) {
		return
	}
	farthest := func(from int) int {
		return slices.MaxFunc(who, func(i, j int) int {
			return cmp.Or(cmp.Compare(p.distance(from, i), p.distance(from, j)), cmp.Compare(j, i))
		})
	}
	first := slices.Min(who)
	a := farthest(first)
	b := farthest(a)
	lean := func(i int) int64 { return p.distance(a, i) - p.distance(b, i) }
	slices.SortFunc(who, func(i, j int) int { return cmp.Or(cmp.Compare(lean(i), lean(j)), cmp.Compare(i, j)) })
	middle := len(who) / 2
	cut, widest := middle, lean(who[middle])-lean(who[middle-1])
	for off := 1; off <= middle-max(len(who)/3, 1); off++ { // of gaps that are as wide the one nearest to the middle
		for _, k := range [2]int{middle - off, middle + off} {
			if gap := lean(who[k]) - lean(who[k-1]); gap > widest {
				cut, widest = k, gap
			}
		}
	}
	halves := [2][]int{who[:cut:cut], who[cut:]}
	if slices.Contains(halves[0], first) {
		halves[0], halves[1] = halves[1], halves[0]
	}
	for side, half := range halves {
		p.part(child(area, byte(side)), half, most)
	}
}

func (p *Picture) distance(i, j int) int64 {
	d, _ := p.View.Distance(i, j)
	return int64(d)
}

// rest is the side of those who are left when others went.
const rest = 2

// child returns the number of a half of an area.
func child(area uint32, side byte) uint32 {
	h := sha256.Sum256(append(binary.BigEndian.AppendUint32([]byte("farlan area 1"), area), side))
	return max(binary.BigEndian.Uint32(h[:]), 1)
}

// NewPictureOfArea is NewPicture of an area, or of a network that isn't divided; where its
// members are too many for that it is NewPictureOfSome.
func NewPictureOfArea(network uint64, epoch int64, self overlay.AgentID, told []Told) (*Picture, error) {
	p, err := NewPicture(network, epoch, self, told)
	if errors.Is(err, mesh.ErrTooMany) {
		return NewPictureOfSome(network, epoch, self, told)
	}
	return p, err
}

// Of returns those of told that are in an area.
func Of(s *discovery.Store, told []Told, area uint32) []Told {
	return slices.DeleteFunc(slices.Clone(told), func(t Told) bool {
		m, ok := s.Member(t.ID)
		return !ok || m.Area != area
	})
}
