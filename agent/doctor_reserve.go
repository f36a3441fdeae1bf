package agent

import (
	"fmt"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// reserveFindings looks at what stands in the way of reservations, and at what is left of them.
func (n *node) reserveFindings(now overlay.Instant) (all []findingView) {
	const check = "reserve"
	for _, p := range n.reserving.problems {
		all = append(all, findingView{check, levelWarn, fmt.Sprintf("driver %s can't be used: %s", p.driver, p.text), p.fix})
	}
	if n.reserving.broker == nil {
		return append(all, fine(check, "nothing is reserved at this agent"))
	}
	rows := n.reservedRows()
	if f, ok := n.leftFinding(now, rows); ok {
		all = append(all, f)
	}
	const unknown = "what this host's way out carries isn't known: nothing can be guaranteed until --uplink is set or measured"
	switch rated := n.reserving.rate > 0; {
	case !rated && len(rows) > 0:
		all = append(all, findingView{check, levelWarn, unknown, "set --uplink RATE: it is measured only where two paths or more have it for a bottleneck, as 'farlan bench PEER' to several shows"})
	case len(all) > 0:
	case !rated:
		all = append(all, fine(check, unknown))
	default:
		all = append(all, fine(check, "all drivers work, and nothing is left over"))
	}
	return all
}

// leftFinding says which grants may be left where nobody wants them, or aren't known to be there.
func (n *node) leftFinding(now overlay.Instant, rows []reserve.Row) (findingView, bool) {
	names := n.names()
	plain := plainNames(rows, names)
	var left []string
	seen := make(map[[16]byte]bool)
	for i := range rows {
		r := &rows[i]
		odd := r.Whole == reserve.Orphan || r.Whole == reserve.Unknown || r.State == reserve.Orphan || r.State == reserve.Unknown
		if !odd || seen[r.ID.Reservation] {
			continue
		}
		seen[r.ID.Reservation] = true
		left = append(left, fmt.Sprintf("%.8s %s", reservationID(r.ID.Reservation), plain.Replace(leftover(now, r))))
	}
	if len(left) == 0 {
		return findingView{}, false
	}
	return findingView{
		"reserve", levelWarn, "not confirmed by whoever granted it: " + named(left),
		"nothing, if it goes by itself; else see what 'farlan reserve list' says of its driver, and look there",
	}, true
}

// leftover says since when something is there, what is done about it, and until when.
func leftover(now overlay.Instant, r *reserve.Row) string {
	s := ""
	if r.Driver != "" {
		s += "at " + r.Driver
	} else {
		s += "at " + r.From.Short()
	}
	if r.Start != 0 {
		s += fmt.Sprintf(", asked for %v ago", now.Sub(r.Start).Round(time.Second))
	}
	if r.Whole == reserve.Orphan || r.State == reserve.Orphan {
		s += ": its release is repeated"
	} else {
		s += ": it is asked what became of it"
	}
	if left := r.End.Sub(now); left > 0 {
		s += fmt.Sprintf(", and its end is in %v", left.Round(time.Second))
	}
	if r.Reason != "" {
		s += " (" + r.Reason + ")"
	}
	return s
}
