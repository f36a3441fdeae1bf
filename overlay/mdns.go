package overlay

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What machines say by multicast DNS (RFC 6762) crosses the wide area as far as it is news there,
// and what they ask if it isn't known here. An agent remembers the records that it heard, from its
// ports and from other agents, with the machine that said each:
//
//   - A response from a port crosses if it tells what hasn't crossed twice, as an announcement is
//     said twice (§ 8.3), also by a machine that starts again, what half of its lifetime ago did
//     last, or what isn't any more; and if somebody far asked for it a moment ago. Else it is for
//     this agent's ports.
//   - A question from a port crosses if nothing is known that answers it, or something whose
//     lifetime is about to end, or whose machine or agent may be gone; and, where there may be
//     others to answer it, as if all machines here were one that goes on asking, at intervals that
//     grow (§ 5.2). Else it is answered here in the names of those who would.
//   - What looks whether a name is free (§ 8.1), what wants an answer by another port, and what
//     can't be understood goes to all. So does what finds no room, or asks too often.
//
// So that what was lost isn't forgotten: who lacks an answer asks, and gets it from its owner.

const (
	// maxDNSEntries bounds the records that are remembered, maxDNSBytes their bytes, and the others
	// those of one station, at one place, and of one name. What comes when there is no room isn't
	// remembered: it always crosses, as do questions for its name.
	maxDNSEntries = 16384
	maxDNSBytes   = 4 << 20
	stationDNS    = 128
	placeDNS      = 4096
	nameDNS       = 512
	// maxDNSLife bounds for how long one is, whatever it says.
	maxDNSLife = 24 * time.Hour

	// farAsked is for how long after a question from afar answers to it cross: those of many
	// take 0.5 s (RFC 6762 § 7.2), and the wide area as long.
	farAsked = 3 * time.Second
	// dnsTimes is how often a record crosses when it is new.
	dnsTimes = 2
	// dnsWait is how long after a question crossed it does again, at first, dnsGrows how many
	// times longer each time, maxDNSWait the longest (RFC 6762 § 5.2: at least twice, to an hour).
	// All machines here ask with one voice, so that it grows faster than one's.
	dnsWait    = time.Second
	dnsGrows   = 4
	maxDNSWait = time.Hour
	// flushAge is how old records are at least that one with the flush bit says aren't any more:
	// others of the same moment belong to it (RFC 6762 § 10.2).
	flushAge = time.Second
	// dnsOnce is how long after a record was said to all at a port it isn't again (RFC 6762 § 6).
	dnsOnce = time.Second
)

// Names are the records of multicast DNS that machines have said. The zero Names is ready. Safe for
// concurrent use.
type Names struct {
	mu      sync.Mutex
	at      map[dnsName]*dnsNode
	of      map[MAC]*dnsOwner
	from    map[Place]int
	count   int
	bytes   int
	renewed Instant // what crossed before may be missing somewhere
	held    map[MAC]*heldQuestion
	budgets map[Place]*Bucket // of this agent's ports
}

// A dnsName is one of a VLAN, by IPv4 or IPv6: who hears the one may not hear the other.
type dnsName struct {
	name  string
	vlans uint32
	six   bool
}

// A dnsNode is what is known of a name, one record at least.
type dnsNode struct {
	entries []*dnsEntry
	partial bool          // there was no room for some
	far     Instant       // when it was asked for from afar last, 0 never
	asked   Instant       // when a question crossed last, 0 never
	wait    time.Duration // after which it does again
}

// A dnsOwner is a machine that said some records.
type dnsOwner struct {
	records int
	began   Instant // when it looked last whether a name is free: it may have been away before
}

// A dnsEntry is a record as a machine said it.
type dnsEntry struct {
	dnsRecord
	owner   MAC
	source  netip.Addr
	from    Place
	heard   Instant
	crossed Instant // when this agent told all last, 0: it didn't
	times   int     // how often it did
	said    Instant // when this agent said it to all at port on
	on      Place
}

// left returns the rest of its lifetime in seconds.
func (e *dnsEntry) left(now Instant) uint32 {
	age := uint32(max(0, min(now.Sub(e.heard), maxDNSLife)) / time.Second)
	return e.ttl - min(age, e.ttl)
}

func (e *dnsEntry) over(now Instant) bool {
	return now.Sub(e.heard) >= min(time.Duration(e.ttl)*time.Second, maxDNSLife)
}

func (e *dnsEntry) size() int { return 256 + 2*len(e.name) + len(e.data) }

func (m *dnsMessage) name(key string) dnsName {
	return dnsName{key, m.vlans, m.source.Is6()}
}

// HearName takes what a frame from another agent says by multicast DNS.
func (s *Switch) HearName(now Instant, from Place, f *Frame, h *Heard) {
	m, ok := openMDNS(f, h)
	if !ok {
		return
	}
	t := &s.Names
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.response {
		t.hear(now, from, &m)
		return
	}
	for _, q := range m.questions {
		if node := t.at[m.name(q.key)]; node != nil {
			node.far = now
		}
	}
}

// hear takes a response, and says whether all must hear it.
func (t *Names) hear(now Instant, from Place, m *dnsMessage) (cross bool) {
	_, here := from.Port()
	told := make([]*dnsEntry, 0, len(m.records))
	for i := range m.records {
		e, news := t.note(now, from, m, i)
		cross = cross || news
		if e != nil {
			told = append(told, e)
		}
	}
	for i := range m.records {
		if r := &m.records[i]; r.flush && r.ttl > 0 && t.flush(now, m.name(r.key), r.kind) {
			cross = true
		}
	}
	for _, e := range told {
		switch {
		case !here:
			e.crossed, e.times = 0, 0
		case cross:
			e.crossed, e.times = now, min(e.times+1, dnsTimes)
		}
	}
	return cross
}

// note takes record i of a response. It says whether it is news, and returns what is remembered
// of it, nil if nothing is.
func (t *Names) note(now Instant, from Place, m *dnsMessage, i int) (e *dnsEntry, news bool) {
	r := &m.records[i]
	a := m.name(r.key)
	node := t.at[a]
	if r.ttl == 0 {
		t.remove(a, func(e *dnsEntry) bool { return e.kind == r.kind && e.data == r.data })
		return nil, true
	}
	if node != nil {
		if k := slices.IndexFunc(node.entries, func(e *dnsEntry) bool { return e.owner == m.from && e.kind == r.kind && e.data == r.data }); k >= 0 {
			e = node.entries[k]
		}
	}
	if e == nil {
		return t.add(now, from, m, r), true
	}
	if e.crossed <= t.of[m.from].began {
		e.times = 0
	}
	life := time.Duration(e.ttl) * time.Second
	news = e.ttl != r.ttl || e.flush != r.flush || e.times < dnsTimes || e.crossed <= t.renewed || e.over(now) ||
		i < m.answers && now.Sub(e.crossed) >= life/2 || node.far != 0 && now.Sub(node.far) < farAsked
	e.ttl, e.flush, e.source, e.heard = r.ttl, r.flush, m.source, now
	if e.from != from {
		t.count1(from, m.from, 1)
		t.count1(e.from, m.from, -1)
		e.from, news = from, true
	}
	return e, news
}

// add remembers a record, unless there is no room: then it returns nil.
func (t *Names) add(now Instant, from Place, m *dnsMessage, r *dnsRecord) *dnsEntry {
	if t.at == nil {
		t.at, t.of, t.from = make(map[dnsName]*dnsNode), make(map[MAC]*dnsOwner), make(map[Place]int)
	}
	a := m.name(r.key)
	node := t.at[a]
	e := &dnsEntry{dnsRecord: *r, owner: m.from, source: m.source, from: from, heard: now}
	if !t.room(e) || node != nil && len(node.entries) >= nameDNS {
		if node != nil {
			node.partial = true
		}
		return nil
	}
	if node == nil {
		node = new(dnsNode)
		t.at[a] = node
	}
	node.entries = append(node.entries, e)
	t.count1(from, m.from, 1)
	t.count++
	t.bytes += e.size()
	return e
}

// room says whether a record can be remembered, and said in one message.
func (t *Names) room(e *dnsEntry) bool {
	const around = dnsHeader + 10
	return t.count < maxDNSEntries && t.bytes+e.size() <= maxDNSBytes && (t.of[e.owner] == nil || t.of[e.owner].records < stationDNS) && t.from[e.from] < placeDNS &&
		around+len(e.name)+len(e.data) <= maxDNSMessage
}

// count1 counts records of a station, at a place.
func (t *Names) count1(p Place, m MAC, by int) {
	if t.from[p] += by; t.from[p] <= 0 {
		delete(t.from, p)
	}
	o := t.of[m]
	if o == nil {
		o = new(dnsOwner)
		t.of[m] = o
	}
	if o.records += by; o.records <= 0 {
		delete(t.of, m)
	}
}

// flush removes what is known of a name and type since longer than this moment, and says whether
// there was something.
func (t *Names) flush(now Instant, a dnsName, kind uint16) bool {
	return t.remove(a, func(e *dnsEntry) bool { return e.kind == kind && now.Sub(e.heard) > flushAge })
}

// remove removes records of a name, and says whether there were some.
func (t *Names) remove(a dnsName, gone func(*dnsEntry) bool) bool {
	node := t.at[a]
	if node == nil {
		return false
	}
	before := len(node.entries)
	node.entries = slices.DeleteFunc(node.entries, func(e *dnsEntry) bool {
		if !gone(e) {
			return false
		}
		t.count1(e.from, e.owner, -1)
		t.count--
		t.bytes -= e.size()
		return true
	})
	if len(node.entries) == 0 {
		delete(t.at, a)
	}
	return len(node.entries) < before
}

// Expire forgets records whose lifetime is over.
func (t *Names) Expire(now Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a := range t.at {
		t.remove(a, func(e *dnsEntry) bool { return e.over(now) })
	}
}

// begin notes that a machine looks whether names are free.
func (t *Names) begin(now Instant, m MAC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.of[m]; o != nil {
		o.began = now
	}
}

// Renew notes that an agent is there who wasn't, and may have missed what crossed: each record
// crosses again when it is said next, and each question when it is asked next.
func (t *Names) Renew(now Instant) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renewed = now
}

// Len returns how many records are known.
func (t *Names) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}
