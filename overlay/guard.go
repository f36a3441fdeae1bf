package overlay

// Trust is what may come from a place: a port of this agent, or another agent. A machine on a
// port that isn't attached to the home LAN may be anybody's, so nothing of that comes from
// there unless the owner says so.
type Trust uint8

// What may come.
const (
	TrustLeases   Trust = 1 << iota // what DHCP servers say (RFC 7610)
	TrustRouters                    // router advertisements and redirects (RFC 6105, RFC 7113)
	TrustStations                   // stations of a LAN, whatever others say: see Keep

	TrustAll = TrustLeases | TrustRouters | TrustStations
)

// refuse says why a frame of src, which says something, goes no further; 0 if it does.
func (s *Switch) refuse(now Instant, source *Source) Verdict {
	h := &source.Heard
	switch h.Said {
	case SaidLease:
		if source.Trust&TrustLeases == 0 {
			return DropLease
		}
	case SaidRouter, SaidHidden:
		if source.Trust&TrustRouters == 0 {
			return DropRouter
		}
	case SaidARP, SaidNeighbour:
		if source.Trust&TrustStations == 0 && s.Bindings.contradicts(now, h, &s.Stations) {
			return DropPoison
		}
	}
	return 0
}

// Stays says whether a frame that came from a place may go to others there, too, before Forward
// takes it, which says why it may not; flooded says that it would go to all of them. source is
// the place's own for that.
func (s *Switch) Stays(now Instant, at Place, frame []byte, source *Source, flooded bool) bool {
	src := MAC(frame[6:12])
	if source.Heard.Said = SaidNothing; maySay(frame) {
		source.Heard = Listen(frame)
	}
	if source.Heard.Said != SaidNothing && s.refuse(now, source) != 0 {
		return false
	}
	h := &source.Heard
	announces := h.Said != SaidNothing && h.Announces && (h.MAC == src || h.Said == SaidRARP)
	if e := s.Stations.find(src); e != nil && Place(e.place.Load()) != at && e.kept(now, source.Trust, announces) {
		return false
	}
	return !flooded || (source.stations == nil || source.stations.allow(now, src)) && source.floods.Allow(now)
}

// heed notes what a frame said that wasn't refused. vital is a station that this showed to give
// addresses or routes.
func (s *Switch) heed(now Instant, from Place, src MAC, source *Source) (vital MAC) {
	h := &source.Heard
	_, here := from.Port()
	onLAN := here && source.Trust&TrustStations != 0
	switch h.Said {
	case SaidLease:
		if h.Lease.IP.IsValid() {
			s.Bindings.lease(now, h, source.Trust)
		}
		if onLAN && s.Stations.setVital(src) {
			return src
		}
	case SaidRouter:
		if onLAN && s.Stations.setVital(src) {
			return src
		}
	case SaidARP, SaidNeighbour:
		if !h.IP.IsValid() || h.MAC != src {
			break // a proxy, of whom nobody knows how long it will be
		}
		s.Bindings.hear(now, from, h)
		if onLAN && s.Bindings.isRouter(h) && s.Stations.setVital(src) {
			return src
		}
	}
	return MAC{}
}
