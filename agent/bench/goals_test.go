package bench

import (
	"fmt"
	"strings"
)

// A verdict is a goal with what was measured of it.
type verdict struct {
	goal     string
	measured string
	known    bool // all that it takes was measured
	met      bool
}

func (v verdict) String() string {
	switch {
	case !v.known:
		return fmt.Sprintf("- %s: not measured", v.goal)
	case v.met:
		return fmt.Sprintf("- %s: %s: met", v.goal, v.measured)
	}
	return fmt.Sprintf("- %s: %s: **missed**", v.goal, v.measured)
}

// atLeast and atMost judge medians.
func atLeast(goal string, s spread, decimals int, bound float64) verdict {
	return verdict{goal, s.text(decimals), s.n > 0, s.median >= bound}
}

func atMost(goal string, s spread, decimals int, bound float64) verdict {
	return verdict{goal, s.text(decimals), s.n > 0, s.median <= bound}
}

// verdicts are farlan's goals as a list.
func (all results) verdicts() string {
	var t strings.Builder
	t.WriteString("goals\n\n")
	for _, v := range all.judge() {
		t.WriteString(v.String() + "\n")
	}
	return t.String()
}

func (all results) judge() []verdict {
	const us = "farlan"
	return []verdict{
		atLeast("TCP one stream ≥ 0.40 of VXLAN", all.ratio(us, "vxlan", one), 2, 0.40),
		atLeast("TCP one stream ≥ 7 × tinc", all.ratio(us, "tinc", one), 1, 7),
		atLeast("without offload ≥ 0.45 of VXLAN without", all.ratio(us+nogso, "vxlan"+nogso, one), 2, 0.45),
		atLeast("four streams ≥ one stream", all.pairs(us, four, us, one, quotient), 2, 1),
		atLeast("reverse ≥ one stream", all.pairs(us, reverse, us, one, quotient), 2, 1),
		atLeast("64 B ≥ 1.6 × VXLAN", all.ratio(us, "vxlan", small), 2, 1.6),
		atLeast("64 B ≥ 3 × tinc", all.ratio(us, "tinc", small), 2, 3),
		atMost("RTT ≤ bare + 90 µs", all.pairs(us, rtt50, "veth", rtt50, difference), 0, 90),
		all.below(us),
		atMost("CPU of both daemons ≤ 2.3 s/GB", all.of(us, daemonsCPU), 2, 2.3),
		atMost("resident ≤ 60 MB", all.of(us, resident), 0, 60),
	}
}

// below judges the round trip against the fastest peer. It is not known unless
// every peer was measured.
func (all results) below(us string) verdict {
	v := verdict{goal: "RTT below every peer", known: true}
	mine := all.of(us, rtt50)
	best, name := spread{}, ""
	for _, peer := range peers {
		s := all.of(peer, rtt50)
		v.known = v.known && s.n > 0
		if s.n > 0 && (name == "" || s.median < best.median) {
			best, name = s, peer
		}
	}
	v.known = v.known && mine.n > 0
	v.measured = fmt.Sprintf("%s µs, %s %s", mine.text(0), name, best.text(0))
	v.met = mine.median < best.median
	return v
}
