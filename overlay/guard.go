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
