package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

const (
	// MaxContacts bounds the members that an agent keeps in session with.
	// Members beyond are not contacted, which Know reports.
	MaxContacts = 4096
	// MaxAddrs bounds the addresses that are tried for one member.
	MaxAddrs = 16
	// MaxRelays bounds the agents by way of which one member is tried.
	MaxRelays = 2

	maxPending = 3                // initiations that wait for an answer, and answers for a datagram
	maxOlder   = 2 * maxPending   // sessions beside the current one: what both sides began at once
	retryFirst = time.Second      // above most round trips of the world
	retryMax   = 15 * time.Second // for members that don't answer
	// retrySoon is retryFirst for a member that was there before: it is the way to it
	// that may lose the first ones, so soon after a move.
	retrySoon = 250 * time.Millisecond
	// relayPatience is how long direct answers are waited for before other agents
	// are asked to relay: well above most round trips.
	relayPatience = 300 * time.Millisecond
	yieldTime     = time.Second     // what the agent with the larger id waits for the other to begin
	crossTime     = 2 * time.Second // handshakes that close together may have crossed
	respondRate   = 200             // handshakes answered a second; about 10 % of a core
	respondBurst  = 400
	// Handshakes begun a second. Each costs both sides about half a millisecond;
	// without the bound, agents that are too busy to answer in time would be
	// kept busy by the repetitions.
	initiateRate  = 50
	initiateBurst = 100
	// Initiations sent by way of others a second. Agents that are too busy to answer
	// in time would be kept busy by the copies.
	relayRate  = 5
	relayBurst = 10
)

// Errors of Know and Receive.
var (
	ErrTooManyContacts = errors.New("overlay: too many members")
	errNotGenuine      = errors.New("overlay: handshake: not from a member")
	errBusy            = errors.New("overlay: handshake: too many at once")
	errReplayed        = errors.New("overlay: handshake: seen before")
	errNoInitiation    = errors.New("overlay: handshake: answers nothing of ours")
)

// Sessions keeps an agent in session with every member that it knows, but for those that
// Rest: it begins handshakes, answers them, repeats what gets lost, renews keys, and
// erases old ones. It is pure: it is told what arrived and what time it is, and
// says what to send. Not safe for concurrent use; the Session values that Live
// shows are.
//
// Of a member it holds the current session, which frames are sent with; older
// ones, which frames may still arrive with; and those that this agent answered
// for but that no datagram has confirmed yet. Handshakes cross, and are repeated
// before a slow answer comes: so several of each are kept, or the two sides could
// keep different ones.
type Sessions struct {
	self     AgentID
	hs       *Handshaker
	rand     io.Reader
	seen     SeenCache
	answers  Bucket
	begins   Bucket
	relayed  Bucket
	turn     int        // the contact to begin with when begins has tokens again
	contacts []*contact // in the order of their ids
	index    map[uint32]*contact
	early    []early    // oldest first
	answered []answered // oldest first
	pulse    pulse
	out      []outgoing
	changed  bool
}

type outgoing struct {
	to  AgentID
	way Way
	d   []byte
}

// NewSessions returns the sessions of agent self. random must be safe for
// keys.
func NewSessions(self AgentID, hs *Handshaker, random io.Reader) *Sessions {
	return &Sessions{
		self: self, hs: hs, rand: random,
		answers: NewBucket(respondRate, respondBurst),
		begins:  NewBucket(initiateRate, initiateBurst),
		relayed: NewBucket(relayRate, relayBurst),
		index:   make(map[uint32]*contact),
	}
}

// Know tells of a member: its static key and the addresses to try, best first.
func (s *Sessions) Know(now Instant, id AgentID, static [32]byte, addrs []netip.AddrPort) error {
	if id == s.self {
		return nil
	}
	i, ok := s.find(id)
	if !ok {
		if len(s.contacts) >= MaxContacts {
			return fmt.Errorf("%w (limit %d)", ErrTooManyContacts, MaxContacts)
		}
		s.contacts = slices.Insert(s.contacts, i, &contact{id: id})
	}
	c := s.contacts[i]
	news := c.static != static || !slices.Equal(c.addrs, addrs)
	c.static = static
	c.addrs = slices.Clone(addrs[:min(len(addrs), MaxAddrs)])
	if news && c.current == nil {
		if c.rests {
			s.answerEarly(now, id)
			return nil
		}
		c.tries = 0
		c.begin = now
		if s.self.Compare(id) > 0 {
			c.begin = now.Add(yieldTime)
		}
		if n := len(c.unconfirmed); n > 0 {
			c.yield(c.unconfirmed[n-1].Created())
		}
		s.answerEarly(now, id)
		s.pulse.expect(c.begin)
	}
	return nil
}

// Forget drops a member: its sessions are erased and nothing is sent to it.
func (s *Sessions) Forget(id AgentID) {
	i, ok := s.find(id)
	if !ok {
		return
	}
	s.drop(s.contacts[i])
	s.contacts = slices.Delete(s.contacts, i, i+1)
}

// Renew begins a handshake with a member at once, at all of its addresses, and repeats
// it until there is an answer: the way to it may be another one than before. Its
// session, if there is one, goes on meanwhile.
func (s *Sessions) Renew(now Instant, id AgentID) {
	if c := s.contact(id); c != nil {
		c.begin, c.tries, c.soon = now, 0, c.met
	}
}

// Lost says that a member is gone: its sessions end, and a handshake is tried
// from time to time.
func (s *Sessions) Lost(now Instant, id AgentID) {
	c := s.contact(id)
	if c == nil {
		return
	}
	s.drop(c)
	if c.begin == 0 && !c.rests {
		c.begin = now
	}
}

// Receive takes a datagram of a handshake. What it must answer, Flush sends.
func (s *Sessions) Receive(now Instant, from Way, d []byte) error {
	kind, ok := ParseKind(d)
	if !ok || !s.hs.Genuine(d) {
		return errNotGenuine
	}
	if kind == KindResponse {
		return s.receiveResponse(now, from, d)
	}
	return s.receiveInitiation(now, from, d)
}

func (s *Sessions) receiveInitiation(now Instant, from Way, d []byte) error {
	if s.seen.Seen(HandshakeMAC(d)) {
		return errReplayed
	}
	if s.answeredBefore(now, from, d) || s.waitsEarly(now, from, d) {
		return nil
	}
	stranger, err := s.respond(now, from, d)
	if stranger != (AgentID{}) {
		s.keep(now, stranger, from, d)
	}
	return err
}

// respond answers an initiation, or returns the id of the agent that made it if that is
// no member, as far as this agent knows.
func (s *Sessions) respond(now Instant, from Way, d []byte) (stranger AgentID, err error) {
	if !s.answers.Allow(now) {
		return stranger, errBusy
	}
	index, err := s.newIndex()
	if err != nil {
		return stranger, err
	}
	known := func(id AgentID, static [32]byte) bool {
		c := s.contact(id)
		if c == nil || c.static != static {
			stranger = id
			return false
		}
		return true
	}
	session, answer, err := s.hs.Respond(now, d, known, index, s.rand)
	if err != nil {
		return stranger, err
	}
	c := s.contact(session.Peer())
	if n := len(c.unconfirmed); n > 0 && now.Sub(c.unconfirmed[n-1].Created()) < retrySoon/2 {
		session.Erase() // members wait longer before they ask again: a replay, perhaps
		return stranger, errBusy
	}
	if len(c.unconfirmed) == maxPending {
		s.erase(c.unconfirmed[0])
		c.unconfirmed = slices.Delete(c.unconfirmed, 0, 1)
	}
	c.unconfirmed = append(c.unconfirmed, session)
	c.yield(now)
	s.keepAnswer(session, d, answer)
	s.index[index] = c
	s.changed = true
	s.out = append(s.out, outgoing{session.Peer(), from, answer})
	return stranger, nil
}

func (s *Sessions) receiveResponse(now Instant, from Way, d []byte) error {
	index := ResponseIndex(d)
	c := s.index[index]
	if c == nil {
		return errNoInitiation
	}
	i := slices.IndexFunc(c.pending, func(p *Initiation) bool { return p.Index() == index })
	if i < 0 {
		return errNoInitiation
	}
	session, err := c.pending[i].Finish(now, d)
	if err != nil {
		return err
	}
	// The index is the session's now. Younger initiations may have been answered,
	// too, and the member may hold those answers for the newest word.
	s.abandon(c, i)
	c.pending = slices.Delete(c.pending, 0, 1)
	c.begin, c.tries, c.soon = 0, 0, false
	s.promote(c, session, from)
	return nil
}

// Heard says that a datagram on session came some way: the first one on a session
// that waits to be confirmed, one from a new address, or one that OtherChoice is
// about. Relayed ones don't turn
// away what goes directly: they may have been under way for longer.
func (s *Sessions) Heard(now Instant, session *Session, from Way) {
	c := s.index[session.LocalIndex()]
	if c == nil {
		return
	}
	if i := slices.Index(c.unconfirmed, session); i >= 0 {
		s.erase(c.unconfirmed[:i]...)
		c.unconfirmed = slices.Delete(c.unconfirmed, 0, i+1)
		s.answerArrived(session)
		c.begin, c.tries, c.soon = 0, 0, false
		s.promote(c, session, from)
	} else if i := slices.Index(c.older, session); i >= 0 && c.current != nil && OtherChoice(now, session, c.current) {
		c.current, c.older[i] = session, c.current
		s.changed = true
	} else if c.current == session && c.way != from && from.IsDirect() {
		c.way = from
		s.changed = true
	}
}

// crosses says whether the two began so close together that the sides may have
// begun them at once.
func (s *Session) crosses(o *Session) bool {
	return o != nil && s.Initiator() != o.Initiator() && s.Created().Sub(o.Created()).Abs() < crossTime
}

// OtherChoice says whether a datagram on session s at now shows that the member
// doesn't have current, which we send with, and which the two would have agreed on
// if it had: it was started anew right after that began.
func OtherChoice(now Instant, s, current *Session) bool {
	return s.crosses(current) && now.Sub(s.Created()) > crossTime
}

// Relays says which agents can relay to a member, the best first: handshakes are
// tried by way of them too when the member doesn't answer directly.
func (s *Sessions) Relays(id AgentID, relays []AgentID) {
	if c := s.contact(id); c != nil {
		c.relays = append(c.relays[:0], relays[:min(len(relays), MaxRelays)]...)
	}
}

// Divert makes the current session's datagrams take another way; the next one
// that comes directly turns them back.
func (s *Sessions) Divert(id AgentID, to Way) {
	if c := s.contact(id); c != nil && c.current != nil && c.way != to {
		c.way = to
		s.changed = true
	}
}

// Tick begins the handshakes that are due and erases what has expired. It
// returns when it wants to be called next, 0 if it needn't.
func (s *Sessions) Tick(now Instant) (next Instant) {
	s.pulse.ticked(now)
	start, dry := s.turn, false
	for i := range s.contacts {
		at := (start + i) % len(s.contacts)
		c := s.contacts[at]
		s.expire(now, c)
		s.tryRelays(now, c)
		if c.begin == 0 && !c.rests && c.current != nil && c.current.WantsRekey(now) {
			c.begin, c.tries = now, 0
		}
		waits := c.tries == 0 && s.self.Compare(c.id) > 0 && s.pulse.waits(now, c.begin) // for the other to begin
		if c.begin != 0 && !now.Before(c.begin) && !dry && !waits {
			if dry = !s.begins.Allow(now); dry {
				s.turn = at // whose turn it is next, so that all get one
			} else {
				s.initiate(now, c)
			}
		}
		for _, at := range []Instant{c.begin, c.late.at} {
			if at != 0 && (next == 0 || at.Before(next)) {
				next = at
			}
		}
	}
	if s.pulse.next = next; next != 0 {
		s.pulse.next = max(next, now)
	}
	return next
}

// initiate sends an initiation every direct way to c, and keeps it for relays.
// The member answers the copy that comes first.
func (s *Sessions) initiate(now Instant, c *contact) {
	wait := retryFirst
	if c.soon {
		wait = retrySoon
	}
	wait = min(wait<<min(c.tries, 10), retryMax)
	p, d, err := s.ask(now, c)
	c.tries++
	c.begin = now.Add(wait)
	if err != nil {
		return
	}
	for _, w := range c.ways() {
		s.out = append(s.out, outgoing{c.id, w, d})
	}
	if c.late.at == 0 || !now.Before(c.late.at) {
		c.late = lateCopies{at: now.Add(relayPatience), index: p.Index(), d: d}
	}
}

// tryRelays sends the newest initiation by way of other agents when it is time.
func (s *Sessions) tryRelays(now Instant, c *contact) {
	if c.late.at == 0 || now.Before(c.late.at) || len(c.relays) == 0 || s.pulse.waits(now, c.late.at) || !s.relayed.Allow(now) {
		return
	}
	late := c.late
	c.late = lateCopies{}
	if !slices.ContainsFunc(c.pending, func(p *Initiation) bool { return p.Index() == late.index }) {
		return // it was answered
	}
	for _, r := range c.relays {
		if w := Relayed(r); w != c.way {
			s.out = append(s.out, outgoing{c.id, w, late.d})
		}
	}
}

// newIndex draws an index that no session of ours has.
func (s *Sessions) newIndex() (uint32, error) {
	var b [4]byte
	for {
		if _, err := io.ReadFull(s.rand, b[:]); err != nil {
			return 0, fmt.Errorf("overlay: draw a session index: %w", err)
		}
		if i := binary.BigEndian.Uint32(b[:]); i != 0 && s.index[i] == nil {
			return i, nil
		}
	}
}

// Flush hands over the datagrams to send, and forgets them.
func (s *Sessions) Flush(send func(to AgentID, way Way, d []byte)) {
	for _, o := range s.out {
		send(o.to, o.way, o.d)
	}
	clear(s.out)
	s.out = s.out[:0]
}

// Changed says whether Live shows something else than at the last call.
func (s *Sessions) Changed() bool {
	c := s.changed
	s.changed = false
	return c
}
