package discovery

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"

	"farlan/overlay"
)

// Receive takes a message of a neighbour; msg is not kept. An error means that
// the neighbour misbehaves (a message that can't be read, a record with a wrong
// signature). Other records in the message are taken all the same. Records that are
// merely not wanted are counted.
func (s *Store) Receive(now overlay.Instant, from overlay.AgentID, msg []byte) error {
	i, ok := s.neighbourAt(from)
	if !ok {
		s.counters.Stranger++
		return nil
	}
	err := s.receive(now, s.neighbours[i], msg)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrSignature):
		s.counters.Signature++
	case errors.Is(err, ErrCredential): // counted
	default:
		s.counters.Malformed++
	}
	return fmt.Errorf("message of %s: %w", from.Short(), err)
}

func (s *Store) receive(now overlay.Instant, n *neighbour, msg []byte) error {
	if len(msg) == 0 || len(msg) > MaxMessage {
		return errMalformed
	}
	if msg[0] != messageVersion {
		s.counters.Unknown++
		return nil
	}
	var refused error // the first one
	for rest := msg[1:]; len(rest) > 0; {
		var typ byte
		var body []byte
		var err error
		if typ, body, rest, err = cutSection(rest); err != nil {
			return err
		}
		switch typ {
		case sectionHash:
			err = s.receiveHash(now, n, body)
		case sectionDigest:
			err = s.receiveDigest(now, n, body)
		case sectionOffer:
			err = s.receiveOffer(now, n, body)
		case sectionRequest:
			err = s.receiveRequest(n, body)
		case sectionRecord:
			// What follows is taken all the same: who has the new one of two keys only
			// can't know by whom a record is that goes by the old one.
			refused = cmp.Or(refused, s.receiveRecord(now, n, body))
		case sectionClaim:
			err = s.receiveClaim(now, n, body)
		case sectionNews:
			err = s.receiveNews(now, n, body)
		case sectionPrune:
			n.branches[min(len(body), int(wide))].lazy = true
		case sectionGraft:
			err = s.receiveGraft(n, body)
		case sectionAreas:
			err = s.receiveAreas(n, body)
		case sectionSums:
			err = s.receiveSums(now, n, body)
		case sectionPart:
			err = s.receivePart(now, n, body)
		case sectionSeek:
			err = s.receiveSeek(now, n, body)
		default:
			s.counters.Unknown++
		}
		if err != nil {
			return err
		}
	}
	return refused
}

// receiveDigest walks what the neighbour has and what we have side by side.
func (s *Store) receiveDigest(now overlay.Instant, n *neighbour, body []byte) error {
	return s.walk(now, n, body, func(k key) bool { return s.reaches(n, k) })
}

// walk walks a digest and those of our keys side by side that are in what it covers.
func (s *Store) walk(now overlay.Instant, n *neighbour, body []byte, covers func(key) bool) error {
	if len(body) < 2*keyLen || (len(body)-2*keyLen)%stampLen != 0 {
		return errMalformed
	}
	above, upTo := parseKey(body), parseKey(body[keyLen:])
	before := len(n.offers) + len(n.requests)
	i, found := s.shelf.find(above)
	if found {
		i++
	}
	for b := body[2*keyLen:]; len(b) > 0; b = b[stampLen:] {
		t := parseStamp(b)
		if t.compare(above) <= 0 || t.compare(upTo) > 0 {
			return errMalformed
		}
		above = t.key
		for ; i < s.shelf.len() && s.shelf.key(i).compare(t.key) < 0; i++ {
			n.offer(s.shelf.key(i), covers)
		}
		if !covers(t.key) {
			continue
		}
		if i < s.shelf.len() && s.shelf.key(i) == t.key {
			if mine := s.entry(t.key).stamp(t.key); mine != t && mine.version >= t.version {
				n.offers.add(t.key)
			}
			i++
		}
		s.consider(now, n, t)
	}
	for ; i < s.shelf.len() && s.shelf.key(i).compare(upTo) <= 0; i++ {
		n.offer(s.shelf.key(i), covers)
	}
	if len(n.offers)+len(n.requests) > before {
		s.other(now, n)
	}
	return nil
}

func (n *neighbour) offer(k key, covers func(key) bool) {
	if covers(k) {
		n.offers.add(k)
	}
}

func (s *Store) receiveOffer(now overlay.Instant, n *neighbour, body []byte) error {
	if len(body)%stampLen != 0 {
		return errMalformed
	}
	for b := body; len(b) > 0; b = b[stampLen:] {
		if t := parseStamp(b); s.reaches(n, t.key) {
			s.consider(now, n, t)
		}
	}
	return nil
}

// consider asks n for the record of a stamp that it has, if we have none as
// new and would take it. If we have just asked somebody else, n is asked later, unless
// it comes: a connection may be dead and we not know it yet.
func (s *Store) consider(now overlay.Instant, n *neighbour, t stamp) {
	if !s.lacks(now, n, t) {
		return
	}
	if s.waiting(now, t.key) {
		s.missing.tell(now, n.id, t)
		return
	}
	if s.asked.len() > 4*s.limits.Origins {
		s.asked.clear() // some are asked for twice then
	}
	s.asked.set(t.key, now)
	n.requests.add(t.key)
}

// lacks says whether there is no record as new as that of a stamp which n has, and it
// would be taken.
func (s *Store) lacks(now overlay.Instant, n *neighbour, t stamp) bool {
	if e := s.entry(t.key); e != nil {
		mine := e.stamp(t.key)
		if mine == t {
			n.has(t.key)
		}
		if mine == t || mine.version > t.version {
			return false
		}
	}
	ahead := t.version > uint64(max(0, now.Add(maxAhead))) && t.origin != s.self
	return s.wants(t.key) && !ahead && s.allows(now, t.origin) && (s.known(t.origin) || s.originRoom(t.origin))
}

// waiting says whether somebody was asked for the record of k a moment ago.
func (s *Store) waiting(now overlay.Instant, k key) bool {
	at, ok := s.asked.get(k)
	return ok && at <= now && now.Sub(at) < askAgain
}

func (s *Store) receiveGraft(n *neighbour, body []byte) error {
	if len(body) >= keyLen {
		s.branch(n, parseKey(body)).lazy = false
	}
	return s.receiveRequest(n, body)
}

func (s *Store) receiveRequest(n *neighbour, body []byte) error {
	if len(body)%keyLen != 0 {
		return errMalformed
	}
	for b := body; len(b) > 0; b = b[keyLen:] {
		if k := parseKey(b); s.entry(k) != nil && s.reaches(n, k) {
			n.has(k)
			n.records.add(k)
		}
	}
	return nil
}

// receiveRecord takes a record, cheap checks first.
func (s *Store) receiveRecord(now overlay.Instant, n *neighbour, b []byte) error {
	r, err := decodeRecord(b)
	if errors.Is(err, ErrUnknownRecord) || err == nil && !s.knows(r.Kind) {
		s.counters.Unknown++
		return nil
	} else if err != nil {
		return err
	}
	k := key{r.Origin, r.Kind}
	if !s.reaches(n, k) && !s.parts(n, k) {
		return s.receiveGuest(now, n, r)
	}
	_, asked := s.asked.get(k)
	s.asked.remove(k)
	if e := s.entry(k); e != nil && !newer(r, e.record) {
		if bytes.Equal(e.record.encoded, b) {
			n.has(k)
			t := s.branch(n, k)
			t.lazy, t.prune = t.lazy || !asked, t.prune || !asked
			s.counters.Duplicate++
		} else {
			s.counters.Stale++
		}
		return nil
	}
	count := s.suspect(now, n, k)
	if count == nil {
		count = s.refusal(now, r, true)
	}
	if count != nil {
		*count++
		return nil
	}
	e := s.archive.find(r, s.contexts)
	if e == nil {
		if verr := s.verify(&r); verr != nil {
			return verr
		}
		r.setEncoded(bytes.Clone(b))
		e = s.archive.add(newEntry(r))
	}
	if ok, err := s.admit(now, n, e.record); !ok {
		return err
	}
	s.put(now, k, e)
	t := s.branch(n, k)
	t.lazy = t.lazy && asked // it was the first to push this
	// What we had to ask for isn't news: the others likely have it.
	s.spread(k, n, asked)
	return nil
}

// spread tells all neighbours but one of the record of k: sends it, or offers
// it.
func (s *Store) spread(k key, but *neighbour, offer bool) {
	is := s.entry(k).stamp(k)
	for _, n := range s.neighbours {
		switch {
		case n == but:
			n.has(k)
			n.requests.remove(k)
		case !s.reaches(n, k) && k != key{s.self, KindMember}:
		case s.missing.toldBy(n.id, is):
		case offer:
			n.later.add(k)
		case s.branch(n, k).lazy:
			s.branch(n, k).news.add(k)
		default:
			n.records.add(k)
		}
	}
}

// Flush hands over the messages that are to be sent; send keeps msg. A neighbour
// gets at most about 1 MB of records by one Flush, so that a newcomer's link
// isn't swamped; Tick tells when to go on.
func (s *Store) Flush(send func(to overlay.AgentID, msg []byte)) {
	for _, n := range s.neighbours {
		if n.quiet() {
			continue
		}
		p := packer{send: func(msg []byte) { send(n.id, msg) }}
		s.flush(n, &p)
	}
}

// quiet says whether the neighbour is to be sent nothing now.
func (n *neighbour) quiet() bool {
	for i := range n.branches {
		if b := &n.branches[i]; b.prune || len(b.grafts) > 0 {
			return false
		}
	}
	return !n.hash && !n.digest && !n.sums && !n.told && !n.untold && n.parts == [scopes]uint32{} &&
		len(n.offers)+len(n.requests)+len(n.records)+len(n.evidence)+len(n.seeks) == 0
}

func (s *Store) flush(n *neighbour, p *packer) {
	s.packAreas(n, p)
	if n.hash {
		n.hash = false
		p.begin(sectionHash, len(s.hash))
		p.buf = append(p.buf, s.hash[:]...)
	}
	if n.digest {
		n.digest = false
		s.packDigest(p)
	}
	list(p, sectionOffer, stampLen, s.stamps(n.offers), func(b []byte, t stamp) []byte { return t.append(b) })
	list(p, sectionRequest, keyLen, n.requests, func(b []byte, k key) []byte { return k.append(b) })
	n.offers.clear()
	n.requests.clear()
	s.packTree(n, p)
	s.packEvidence(n, p)

	p.sent = 0
	s.packRotations(n, p) // what follows may be signed for the new key
	done := 0
	for _, k := range n.records {
		e := s.entry(k)
		if e != nil && p.sent == flushMessages-1 && p.fits(len(e.record.encoded), 0) == 0 {
			break
		}
		done++
		if e != nil && k.kind != KindRotation { // else it expired meanwhile
			p.begin(sectionRecord, len(e.record.encoded))
			p.buf = append(p.buf, e.record.encoded...)
		}
	}
	n.records.shift(done)
	p.flush()
}

// packRotations writes the orders that n is to be sent.
func (s *Store) packRotations(n *neighbour, p *packer) {
	for _, k := range n.records {
		if e := s.entry(k); e != nil && k.kind == KindRotation {
			p.begin(sectionRecord, len(e.record.encoded))
			p.buf = append(p.buf, e.record.encoded...)
		}
	}
}

// packEvidence writes who has the invites that n is to be told of.
func (s *Store) packEvidence(n *neighbour, p *packer) {
	for _, serial := range n.evidence {
		if c, ok := s.members.claims.Evidence(serial); ok {
			p.begin(sectionClaim, len(c.raw))
			p.buf = append(p.buf, c.raw...)
		}
	}
	n.evidence = n.evidence[:0]
}

// packDigest writes all stamps, in as many sections as it takes, which together
// cover all keys.
func (s *Store) packDigest(p *packer) {
	s.packRange(p, sectionDigest, nil, key{}, lastKey, s.stamps(s.shelf.keys()))
}

// packRange writes digests of the stamps that there are above a key and up to another one,
// each after a head.
func (s *Store) packRange(p *packer, typ byte, head []byte, above, last key, stamps []stamp) {
	for {
		n := p.fits(stampLen, len(head)+2*keyLen)
		if n == 0 {
			p.flush()
			continue
		}
		upTo := last
		if n < len(stamps) {
			upTo = stamps[n-1].key
		}
		n = min(n, len(stamps))
		p.begin(typ, len(head)+2*keyLen+n*stampLen)
		p.buf = upTo.append(above.append(append(p.buf, head...)))
		for _, t := range stamps[:n] {
			p.buf = t.append(p.buf)
		}
		if upTo == last {
			return
		}
		above, stamps = upTo, stamps[n:]
	}
}

// stamps returns the stamps of those of the keys that there are records of.
func (s *Store) stamps(keys keySet) []stamp {
	out := make([]stamp, 0, len(keys))
	for _, k := range keys {
		if e := s.entry(k); e != nil {
			out = append(out, e.stamp(k))
		}
	}
	return out
}
