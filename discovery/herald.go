package discovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// MaxBeaconLinks is how many links a Herald serves. Further ones get no beacons.
	MaxBeaconLinks = 128

	// beaconEvery is how often beacons go out on a link where nothing happens,
	// within beaconJitter, so that agents which power came back to don't keep step.
	beaconEvery  = 30 * time.Second
	beaconJitter = 5 * time.Second
	// startJitter is how late the first beacon on a link may be.
	startJitter = 50 * time.Millisecond

	// An agent that asks is answered after answerLeast to answerMost, unless
	// enoughAnswers others do so first: one that answers is enough to learn of all
	// others by, and hundreds at once would drown it.
	answerLeast   = 10 * time.Millisecond
	answerMost    = 150 * time.Millisecond
	enoughAnswers = 2
	// answerEvery is how often a link gets an answer at most. It goes to all, so it
	// serves all who asked meanwhile.
	answerEvery = 250 * time.Millisecond

	// tellEvery is how often the same news of an agent is told.
	tellEvery = 3 * time.Second
	// maxHeard is how many agents are remembered to have been told of. Beyond it the
	// one that was told of longest ago is forgotten, and told of again too soon.
	maxHeard = 1024
)

// burst is when beacons go out on a link that has just come up: some switches take a
// while until they forward.
var burst = [...]time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second}

// A Herald decides when an agent sends beacons on its links, and what it makes of
// those that it hears. Answers are sent to all, as beacons are: several agents on one
// host share the port, so what is sent to one of them may reach another. Not safe for
// concurrent use.
type Herald struct {
	self    overlay.AgentID
	session uint64
	seals   []BeaconSeal // one a key
	random  io.Reader
	links   []heraldLink // by ascending number
	seen    overlay.SeenCache
	heard   map[overlay.AgentID]heardAgent
	counts  HeraldCounters
}

// HeraldCounters counts what a Herald heard and did not take, and why.
type HeraldCounters struct {
	Strangers uint64 // datagrams that no member sealed, or of a later version
	Late      uint64 // beacons whose time is too far from ours
	Repeated  uint64 // beacons that were heard before
}

// A heraldLink is a link and when to speak there.
type heraldLink struct {
	number int
	since  overlay.Instant // when it came up
	spoken int             // of the burst
	next   overlay.Instant // beacon of its own accord
	last   overlay.Instant // one was sent, 0 never
	heard  bool            // somebody else
	answer overlay.Instant // when to answer, 0 nobody asked
	others int             // who answered since somebody asked
}

// A heardAgent is what was told of an agent.
type heardAgent struct {
	session uint64
	addrs   []netip.AddrPort
	told    overlay.Instant
}

// NewHerald returns the herald of agent self, which is on no link yet. random must
// be fit for nonces.
func NewHerald(self overlay.AgentID, k NetworkKey, random io.Reader) (*Herald, error) {
	h := &Herald{self: self, seals: []BeaconSeal{NewBeaconSeal(k)}, random: random, heard: make(map[overlay.AgentID]heardAgent)}
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, fmt.Errorf("beacon: draw a session: %w", err)
	}
	h.session = binary.BigEndian.Uint64(b[:])
	return h, nil
}

// SetKeys replaces the network's keys: beacons by any are heard, and each is sent by
// all, so that who knows one of them hears it.
func (h *Herald) SetKeys(keys ...NetworkKey) {
	h.seals = h.seals[:0]
	for _, k := range keys {
		h.seals = append(h.seals, NewBeaconSeal(k))
	}
}

// open opens a datagram by the key that it is sealed with.
func (h *Herald) open(wall overlay.Instant, d []byte) (b Beacon, err error) {
	for _, s := range h.seals {
		if b, err = s.Open(wall, d); !errors.Is(err, errBeaconStranger) {
			return b, err
		}
	}
	return b, err
}

// Join begins to speak on a link, or begins anew if there is news of the agent. It
// says whether there was room.
func (h *Herald) Join(now overlay.Instant, link int) bool {
	i, ok := h.find(link)
	if !ok {
		if len(h.links) >= MaxBeaconLinks {
			return false
		}
		h.links = slices.Insert(h.links, i, heraldLink{number: link})
	}
	l := &h.links[i]
	l.since, l.spoken, l.answer = now.Add(h.upTo(startJitter)), 0, 0
	l.next = l.since
	return true
}

// Leave stops speaking on a link.
func (h *Herald) Leave(link int) {
	if i, ok := h.find(link); ok {
		h.links = slices.Delete(h.links, i, i+1)
	}
}

func (h *Herald) find(link int) (int, bool) {
	return slices.BinarySearchFunc(h.links, link, func(l heraldLink, n int) int { return l.number - n })
}

// Next returns when Tick wants to be called, 0 if it needn't.
func (h *Herald) Next() (next overlay.Instant) {
	for _, l := range h.links {
		if next == 0 || l.due().Before(next) {
			next = l.due()
		}
	}
	return next
}

// due returns when something is to be sent on the link.
func (l *heraldLink) due() overlay.Instant {
	if l.answer != 0 {
		return min(l.answer, l.next)
	}
	return l.next
}

// Tick calls send for the links that a beacon is due on, at most once each. While
// nobody was heard there it asks.
func (h *Herald) Tick(now overlay.Instant, send func(link int, ask bool)) {
	for i := range h.links {
		l := &h.links[i]
		if now.Before(l.due()) {
			continue
		}
		own := !now.Before(l.next) // not just an answer
		ask := !l.heard || own && l.spoken < len(burst)
		if own {
			l.spoken++
		}
		if own || l.spoken >= len(burst) { // an answer is as good as any
			l.next = h.after(now, l)
		}
		l.answer, l.last = 0, now
		send(l.number, ask)
	}
}

// after returns when the next beacon of its own accord goes out on a link.
func (h *Herald) after(now overlay.Instant, l *heraldLink) overlay.Instant {
	if l.spoken < len(burst) {
		return max(l.since.Add(burst[l.spoken]), now.Add(burst[1]/2)) // if this agent couldn't speak in time
	}
	return now.Add(beaconEvery - beaconJitter + h.upTo(2*beaconJitter))
}

// Beacon returns what to send, at the time wall by the wall clock: a datagram for each
// key. Of addrs it tells the first MaxBeaconAddrs.
func (h *Herald) Beacon(wall overlay.Instant, ask bool, addrs []netip.AddrPort) (all [][]byte, err error) {
	b := Beacon{Agent: h.self, Session: h.session, Ask: ask, Addrs: addrs[:min(len(addrs), MaxBeaconAddrs)]}
	for _, s := range h.seals {
		var nonce [beaconNonceLen]byte
		if _, err := io.ReadFull(h.random, nonce[:]); err != nil {
			return nil, fmt.Errorf("beacon: draw a nonce: %w", err)
		}
		d, err := s.Seal(wall, nonce, b)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// Receive takes a datagram that came on a link. News of another agent is returned:
// ok is true when the agent was not told of for a while, was started again, or can be
// dialled elsewhere. The first copy of a datagram counts; others, and what doesn't
// open, have no effect but on the counters.
func (h *Herald) Receive(now, wall overlay.Instant, link int, d []byte) (b Beacon, ok bool) {
	b, err := h.open(wall, d)
	switch {
	case errors.Is(err, errBeaconTime):
		h.counts.Late++
		return Beacon{}, false
	case err != nil:
		h.counts.Strangers++
		return Beacon{}, false
	case b.Session == h.session || b.Agent == h.self:
		return Beacon{}, false
	case h.seen.Seen([overlay.MACLen]byte(d)): // of the nonce
		h.counts.Repeated++
		return Beacon{}, false
	}
	if i, ok := h.find(link); ok {
		h.heardOn(now, &h.links[i], b.Ask)
	}
	return b, h.news(now, b)
}

// heardOn notes that somebody spoke on a link, and who must be answered when.
func (h *Herald) heardOn(now overlay.Instant, l *heraldLink, asks bool) {
	l.heard = true
	switch {
	case asks && l.answer == 0:
		l.answer = now.Add(answerLeast + h.upTo(answerMost-answerLeast))
		if l.last != 0 {
			l.answer = max(l.answer, l.last.Add(answerEvery))
		}
		l.others = 0
	case !asks && l.answer != 0:
		if l.others++; l.others >= enoughAnswers {
			l.answer = 0
		}
	}
}

// news says whether b must be told, and remembers that it was.
func (h *Herald) news(now overlay.Instant, b Beacon) bool {
	old, ok := h.heard[b.Agent]
	if ok && old.session == b.Session && now.Sub(old.told) < tellEvery && slices.Equal(old.addrs, b.Addrs) {
		return false
	}
	if !ok && len(h.heard) >= maxHeard {
		oldest := b.Agent
		for id, a := range h.heard {
			o, ok := h.heard[oldest]
			if !ok || a.told.Before(o.told) || a.told == o.told && id.Compare(oldest) < 0 {
				oldest = id
			}
		}
		delete(h.heard, oldest)
	}
	h.heard[b.Agent] = heardAgent{b.Session, b.Addrs, now}
	return true
}

// upTo returns a random time below d.
func (h *Herald) upTo(d time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(h.random, b[:]); err != nil {
		return d / 2
	}
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(d))
}

// Heard returns how many other agents were heard of late.
func (h *Herald) Heard(now overlay.Instant) (n int) {
	for _, a := range h.heard {
		if now.Sub(a.told) < 3*beaconEvery {
			n++
		}
	}
	return n
}

// Counters returns what was not taken so far.
func (h *Herald) Counters() HeraldCounters { return h.counts }
