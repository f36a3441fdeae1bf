package discovery

import (
	"slices"
	"testing"
	"time"
)

// When a gateway tells of its area: what is lost at once, what is little when there is room.
func TestAreaTelling(t *testing.T) {
	lose := func(at int) func(*Area) {
		return func(a *Area) { a.Tree = slices.Delete(slices.Clone(a.Tree), at, at+1) }
	}
	for _, c := range []struct {
		name  string
		haste News
		edit  func(*Area)
		fresh bool // it hasn't told often of late
		tired bool // and if it has
	}{
		{"nothing", NoNews, func(*Area) {}, false, false},
		{"another gateway", NoNews, func(a *Area) { a.Gateways = []Brief{3} }, true, true},
		{"an agent that others are reached by went", NoNews, lose(0), true, true},
		{"another went", NoNews, lose(2), true, false},
		{"one came", NoNews, func(a *Area) { a.Tree = append(slices.Clone(a.Tree), Leaf{9, 90, -1, time.Millisecond}) }, true, false},
		{"a way is far longer", NoNews, func(a *Area) { a.Tree = slices.Clone(a.Tree); a.Tree[2].Cost *= 2 }, true, false},
		{"a way is a little longer", NoNews, func(a *Area) { a.Tree = slices.Clone(a.Tree); a.Tree[2].Cost += 4 * time.Millisecond }, false, false},
		{"a link of a way is gone", SlowNews, func(*Area) {}, true, false},
		{"and there is no other way", Urgent, func(*Area) {}, true, true},
	} {
		for _, tired := range []bool{false, true} {
			var k AreaTelling
			if !k.Due(at(0), area(), 400, NoNews) {
				t.Fatal("what was never told isn't due")
			}
			times := 1
			if tired {
				times = areaBurst - urgentArea
			}
			for range times {
				k.Told(at(0), area(), 400)
			}
			is := area()
			c.edit(&is)
			want := c.fresh
			if tired {
				want = c.tired
			}
			if got := k.Due(at(10), is, 400, c.haste); got != want {
				t.Errorf("%s: due %v, tired %v", c.name, got, tired)
			}
		}
	}
	// However restless an area is, it has its share.
	var k AreaTelling
	told := 0
	for now := range 4 * 3600 {
		is := area()
		if is.Gateways = []Brief{Brief(now)}; k.Due(at(now), is, 400, Urgent) {
			k.Told(at(now), is, 400)
			told++
		}
	}
	if most := areaBurst + int(4*time.Hour/areaEvery(400)) + 1; told > most {
		t.Errorf("told %d times in four hours, %d at most", told, most)
	}
}

// Gateways that began together, and always have something to tell when there is room, don't tell
// together ever after.
func TestAreaTellingsSpread(t *testing.T) {
	const gateways, hours = 100, 4
	tellings, last := make([]AreaTelling, gateways), make(map[int]int)
	for i := range tellings {
		for range areaBurst {
			tellings[i].Told(at(0).Add(time.Duration(i)*time.Millisecond), area(), gateways)
		}
	}
	for now := range hours * 3600 {
		for i := range tellings {
			if tick := at(now).Add(time.Duration(i) * time.Millisecond); tellings[i].Due(tick, area(), gateways, SlowNews) {
				tellings[i].Told(tick, area(), gateways)
				if now >= (hours-1)*3600 {
					last[now/10]++
				}
			}
		}
	}
	most, sum := 0, 0
	for _, n := range last {
		most, sum = max(most, n), sum+n
	}
	if sum < 3600*8/10 || most > 3*sum/360 {
		t.Errorf("in the last hour %d told, of whom %d within ten seconds", sum, most)
	}
	t.Logf("%d told, %d at most within ten seconds", sum, most)
}
