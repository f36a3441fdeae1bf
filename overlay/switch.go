package overlay

import (
	"slices"
	"sync/atomic"
	"time"
)

const (
	// FloodRate bounds the frames a second that are flooded for one source
	// place (storm control); what is beyond is dropped and counted. An ordinary
	// LAN of some hundred machines broadcasts tens of frames a second; a video
	// multicast is about a thousand.
	FloodRate = 4000
	// FloodBurst is how many may come at once.
	FloodBurst = 4000

	// echoTime is how long after a station spoke on one side of a LAN port a
	// frame of its on the other side is taken for an echo. It bounds what a
	// second bridge between the same two segments can do to one frame a
	// station and echoTime.
	echoTime = time.Second
)

// A Source is what the switch remembers of one place that frames come from: how
// many it floods, and which. It is used by one goroutine.
type Source struct {
	// Learned is what the last frame told of its station.
	Learned Learned
	// Heard is what it said, and Vital a station that this showed to give addresses
	// or routes, if it is news.
	Heard Heard
	Vital MAC
	// Trust is what may come from there.
	Trust Trust

	floods   Bucket
	repeats  *repeats
	stations *stationFloods // nil: not of each on its own
}

// NewSource returns the state of a place; lan says that it is a port to a
// physical LAN, where other bridges may be, and all is trusted.
func NewSource(lan bool) Source {
	s := Source{floods: NewBucket(FloodRate, FloodBurst)}
	if lan {
		s.repeats, s.Trust = new(repeats), TrustAll
	}
	return s
}

// maxRepeats is how often the same frame may be flooded in a second. Nothing
// honest says the same so often; a frame that goes round through a second bridge
// does, and ends so.
const maxRepeats = 100

// repeats counts equal frames, by their hash. When it is full, the slot's older
// frame is forgotten.
type repeats [256]struct {
	sum   uint64
	since Instant
	count int
}

// again says whether frame came too often.
func (r *repeats) again(now Instant, frame []byte) bool {
	sum := uint64(14695981039346656037) // FNV-1a
	for _, b := range frame {
		sum = (sum ^ uint64(b)) * 1099511628211
	}
	slot := &r[sum%uint64(len(r))]
	if slot.sum != sum || now.Sub(slot.since) >= time.Second {
		slot.sum, slot.since, slot.count = sum, now, 0
	}
	slot.count++
	return slot.count > maxRepeats
}

// A Verdict is what becomes of a frame.
type Verdict uint8

// What a Switch can say about a frame. The Drop ones are counted by name.
const (
	_              Verdict = iota
	ToPlace                // to one place
	Flood                  // to every other place; see Switch.Forward
	DropShort              // shorter than an Ethernet header
	DropSource             // a source address that nobody can have
	DropLinkLocal          // addressed to the next bridge only (spanning tree, LLDP)
	DropSame               // its station is where it came from
	DropTransit            // from an agent for a station of another agent, which wasn't here
	DropStorm              // over the flood rate
	DropEcho               // one of the overlay's own frames that came back by a LAN
	DropBeacon             // a beacon on a physical LAN, which is for that link only
	DropAgain              // what was flooded came another way before
	DropClaims             // claims of stations, which agents make and no station can
	DropLease              // what a DHCP server says, where none may be
	DropRouter             // what a router advertises, where none may be
	DropSpoof              // of a station that is elsewhere, on a LAN
	DropPoison             // it says that an address is its own that is another's
	DropStations           // of one more station than a port may have
	DropNoisy              // over the rate of one station's floods
	DropClaimStorm         // claims of stations, over the rate of one agent's
	verdicts
)

var verdictNames = [verdicts]string{
	ToPlace: "forwarded", Flood: "flooded", DropShort: "short", DropSource: "bad source",
	DropLinkLocal: "link-local", DropSame: "same side", DropTransit: "transit",
	DropStorm: "storm", DropEcho: "echo", DropBeacon: "beacon", DropAgain: "flooded again", DropClaims: "claims",
	DropLease: "rogue DHCP server", DropRouter: "rogue router", DropSpoof: "spoofed station", DropPoison: "spoofed address",
	DropStations: "too many stations", DropNoisy: "storm of a station", DropClaimStorm: "storm of claims",
}

// String returns the name under which the verdict is counted.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}

// A Switch decides where frames go. Its Stations are safe for concurrent use;
// Forward is too, as long as each goroutine has a Source of its own.
type Switch struct {
	Stations Stations
	Bindings Bindings
	Names    Names
	Groups   Groups
	again    again
	// LAN tells which ports are attached to a physical LAN, where other
	// bridges may be. It is set before the first frame.
	LAN []bool
	// Own are the addresses of this host's own cards that are LAN ports and forward.
	// Its frames come from there, so one that comes from elsewhere has gone round.
	// nil is none.
	Own atomic.Pointer[[]MAC]
}

// Forward learns the source of a frame that came from place from, and decides
// where it goes. Flood means: from a port, to all other ports and all agents;
// from an agent, to all ports. So a frame that is flooded visits each agent once at
// most, and none leaves by the way it came. What an agent sent for a station that has
// just left goes after it, to the agent that claimed it: the claims' numbers rise on that
// way, so it ends.
func (s *Switch) Forward(now Instant, from Place, frame []byte, source *Source) (Place, Verdict) {
	if len(frame) < MinFrame {
		return 0, DropShort
	}
	dst, src := MAC(frame[:6]), MAC(frame[6:12])
	source.Learned = LearnedNothing
	switch {
	case src.Group() || src == MAC{}:
		return 0, DropSource
	case dst.LinkLocal():
		return 0, DropLinkLocal
	case s.echo(now, from, src), !s.isLAN(from) && s.own(src):
		return 0, DropEcho
	case dst.Group() && s.isLAN(from) && isBeacon(dst, frame):
		return 0, DropBeacon
	case IsClaims(frame):
		return 0, DropClaims
	}
	if v := s.learn(now, from, src, frame, source); v != 0 {
		return 0, v
	}
	if !dst.Group() {
		to, known := s.Stations.Lookup(now, dst)
		_, fromAgent := from.Agent()
		_, toAgent := to.Agent()
		switch {
		case known && to == from:
			return 0, DropSame
		case known && fromAgent && toAgent && !s.Stations.Late(now, dst):
			return 0, DropTransit
		case known:
			return to, ToPlace
		}
	}
	if source.repeats != nil && source.repeats.again(now, frame) {
		return 0, DropEcho
	}
	if source.stations != nil && !source.stations.allow(now, src) {
		return 0, DropNoisy
	}
	if !source.floods.Allow(now) {
		return 0, DropStorm
	}
	return 0, Flood
}

func (s *Switch) own(src MAC) bool {
	own := s.Own.Load()
	return own != nil && slices.Contains(*own, src)
}

// learn learns what a frame of src tells, and says why it goes no further, 0 if it does.
func (s *Switch) learn(now Instant, from Place, src MAC, frame []byte, source *Source) Verdict {
	h, announces := &source.Heard, false
	if h.Said, source.Vital = SaidNothing, (MAC{}); maySay(frame) {
		*h = Listen(frame)
	}
	if h.Said != SaidNothing {
		if v := s.refuse(now, source); v != 0 {
			return v
		}
		announces = h.Announces && (h.MAC == src || h.Said == SaidRARP)
	}
	source.Learned = s.Stations.learn(now, src, from, source.Trust, announces)
	switch source.Learned {
	case LearnedMove:
		s.Groups.Follow(now, src, from)
	case LearnedSpoof:
		// An agent sends on what is late for a station that left it, whoever it is of.
		if _, here := from.Port(); !here && h.Said == SaidNothing && !MAC(frame[:6]).Group() {
			return 0
		}
		return DropSpoof
	case LearnedFull:
		if _, here := from.Port(); here && source.Trust&TrustStations == 0 {
			return DropStations
		}
	}
	if h.Said != SaidNothing {
		source.Vital = s.heed(now, from, src, source)
	}
	if dst := MAC(frame[:6]); h.Target.IsValid() && !dst.Group() {
		s.Bindings.probe(now, dst, h)
	}
	return 0
}

// echo says whether a frame from src at from is one that the overlay and a
// second bridge on a LAN carry in a circle: src spoke a moment ago on the
// other side of one of our LAN ports.
func (s *Switch) echo(now Instant, from Place, src MAC) bool {
	last, seen := s.Stations.last(src)
	if last == 0 || last == from || now.Sub(seen) >= echoTime {
		return false
	}
	return s.isLAN(from) || s.isLAN(last)
}

func (s *Switch) isLAN(p Place) bool {
	i, ok := p.Port()
	return ok && i < len(s.LAN) && s.LAN[i]
}
