package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// stationsLook is how long stations are watched for addresses that two have, and
	// stationsEvery how often they are looked at. Two machines that both send are
	// learned in turns.
	stationsLook  = 2 * time.Second
	stationsEvery = 100 * time.Millisecond
	// twiceMoves is how many moves in that time are too many for one machine.
	twiceMoves = 3
)

// A moves counts how often stations moved while they are watched.
type moves struct {
	first, last map[overlay.MAC]overlay.Station
}

func newMoves() *moves {
	return &moves{make(map[overlay.MAC]overlay.Station), make(map[overlay.MAC]overlay.Station)}
}

func (m *moves) note(all []overlay.Station) {
	for _, s := range all {
		if _, ok := m.first[s.MAC]; !ok {
			m.first[s.MAC] = s
		}
		m.last[s.MAC] = s
	}
}

// twice returns those that moved too often for one machine, ascending.
func (m *moves) twice() (all []overlay.MAC) {
	for mac, s := range m.last {
		if s.Moves >= m.first[mac].Moves+twiceMoves {
			all = append(all, mac)
		}
	}
	slices.SortFunc(all, overlay.MAC.Compare)
	return all
}

// examineStations looks for addresses that two machines have.
func (n *node) examineStations(ctx context.Context, m *moves) (findingView, error) {
	look := time.NewTicker(stationsEvery)
	defer look.Stop()
	for range int(stationsLook / stationsEvery) {
		select {
		case <-ctx.Done():
			return findingView{}, ctx.Err()
		case <-look.C:
			m.note(n.sw.Stations.List())
		}
	}
	var f findingView
	return f, n.do(ctx, func(now overlay.Instant) { f = n.twiceFinding(now, m) })
}

// twiceFinding says which addresses two machines have, and at which agents those are: by
// what was watched, and by the table of stations, where they don't move any more.
func (n *node) twiceFinding(now overlay.Instant, m *moves) findingView {
	const check = "duplicate MAC"
	damped, names := n.sw.Stations.Twice(now), n.names()
	var bad []string
	for _, s := range damped {
		bad = append(bad, fmt.Sprintf("%v at %s and at %s (it moved %d times, and stays at the first until that is less often)", s.MAC, n.placeName(s.Place, names), n.placeName(s.Was, names), s.Moves))
	}
	for _, mac := range m.twice() {
		if s := m.last[mac]; !slices.ContainsFunc(damped, func(d overlay.Station) bool { return d.MAC == mac }) {
			bad = append(bad, fmt.Sprintf("%v at %s and at %s (%d moves in %v)", mac, n.placeName(s.Place, names), n.placeName(s.Was, names), s.Moves-m.first[mac].Moves, stationsLook))
		}
	}
	if len(bad) == 0 {
		return fine(check, "none of %d stations is in two places", len(m.last))
	}
	return findingView{
		check, levelFail, "frames of one address come from two places: " + named(bad),
		"give one of the two machines another MAC address (a copied VM, most often); if it is all machines of a site, a cable or bridge joins two sites",
	}
}

// placeName names the agent of a place, and its port if that is this one.
func (n *node) placeName(at overlay.Place, names map[overlay.AgentID]string) string {
	if i, ok := at.Port(); ok && i < len(n.ports) {
		return fmt.Sprintf("%s (port %s)", names[n.self], n.ports[i].name)
	}
	if p := n.view.Load().peer(at); p != nil {
		return namesOf([]overlay.AgentID{p.id}, names)[0]
	}
	return "an agent that is gone"
}
