package overlay

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// maxDNSAnswers bounds the records by which one question is answered here; what has more crosses.
const maxDNSAnswers = 256

// maxDNSMessage is how long a message that this agent says is at most, in bytes: with its headers
// it fits into what any LAN carries.
const maxDNSMessage = 1200

// moreWait is how long after a question the rest of what who asks knows may come (RFC 6762 § 7.2),
// and maxMore bounds those that wait for it, maxMoreRecords the records of one.
const (
	moreWait       = time.Second
	maxMore        = 64
	maxMoreRecords = 1024
)

// answerRate bounds the frames a second by which one port's questions are answered here, and
// answerBurst those at once. What is beyond crosses.
const answerRate, answerBurst = 1000, 2000

// TellName says where a frame goes that a machine at port from says by multicast DNS to all: to all
// agents, to this agent's ports only, or to nobody, as all have heard it a moment ago. present says
// of an agent's place that it is there. answers are frames that answer it at that port.
func (s *Switch) TellName(now Instant, from Place, f *Frame, h *Heard, present func(Place) (since Instant, ok bool)) (turn Turn, answers [][]byte) {
	m, ok := openMDNS(f, h)
	switch {
	case ok && m.probe:
		s.Names.begin(now, m.from)
		return AskAll, nil
	case s.SaidAgain(now, from, f.Head, h):
		return AskNone, nil
	case !ok:
		return AskAll, nil
	}
	t := &s.Names
	t.mu.Lock()
	defer t.mu.Unlock()
	if !m.response {
		q := asking{s: s, now: now, from: from, m: &m, present: present}
		return q.answer(f.Head)
	}
	if t.hear(now, from, &m) {
		return AskAll, nil
	}
	return AskHere, nil
}

// An asking is a question from a port.
type asking struct {
	s       *Switch
	now     Instant
	from    Place
	m       *dnsMessage
	present func(Place) (since Instant, ok bool)
	knows   map[dnsAnswer]uint32 // what who asks knows, or gets here, and how long it lives, in seconds
	answers []*dnsEntry
}

// there says whether the agent at a place is there.
func (q *asking) there(p Place) bool {
	_, ok := q.present(p)
	return ok
}

type dnsAnswer struct {
	key, data string
	kind      uint16
}

// A heldQuestion is one that didn't cross, of what who asks knows more is to come.
type heldQuestion struct {
	m  dnsMessage
	at Instant
}

// answer says where the question goes, and answers it if it doesn't go to all.
func (q *asking) answer(frame []byte) (Turn, [][]byte) {
	m, t := q.m, &q.s.Names
	if len(m.questions) == 0 && !q.resume() || m.port != portMDNS {
		return AskAll, nil
	}
	q.knows = make(map[dnsAnswer]uint32, len(m.records))
	for i := range m.records {
		q.knows[m.records[i].answer()] = m.records[i].ttl
	}
	cross, alone := false, true
	for i := range m.questions {
		cross = !q.known(&m.questions[i]) || cross
		alone = alone && m.questions[i].alone
	}
	switch {
	case cross || len(q.answers) > maxDNSAnswers || !t.mayAnswer(q.now, q.from, len(q.answers)):
	case m.more && q.hold():
		return AskHere, nil
	case !m.more:
		return AskHere, q.say(frame, alone)
	}
	for i := range m.questions {
		if node := t.at[m.name(m.questions[i].key)]; node != nil && node.due(q.now, t.renewed) {
			node.asked, node.wait = q.now, max(dnsWait, min(dnsGrows*node.wait, maxDNSWait))
		}
	}
	return AskAll, nil
}

// hold keeps a question until all that who asks knows has come, if there is room.
func (q *asking) hold() bool {
	t := &q.s.Names
	if t.held == nil {
		t.held = make(map[MAC]*heldQuestion)
	}
	if len(t.held) >= maxMore {
		maps.DeleteFunc(t.held, func(_ MAC, h *heldQuestion) bool { return q.now.Sub(h.at) >= moreWait })
	}
	if len(t.held) >= maxMore || len(q.m.records) > maxMoreRecords {
		return false
	}
	t.held[q.m.from] = &heldQuestion{*q.m, q.now}
	return true
}

// resume makes a message that goes on with what its sender knows one with the question before it.
// It is false if that crossed, as this one must then.
func (q *asking) resume() bool {
	t, m := &q.s.Names, q.m
	h := t.held[m.from]
	if h == nil {
		return false
	}
	delete(t.held, m.from)
	if q.now.Sub(h.at) >= moreWait || h.m.vlans != m.vlans || h.m.source != m.source {
		return false
	}
	m.questions, m.records = h.m.questions, append(h.m.records, m.records...)
	return true
}

// mayAnswer says whether so many frames may answer at a port, and counts them.
func (t *Names) mayAnswer(now Instant, at Place, count int) bool {
	b := t.budgets[at]
	if b == nil {
		if t.budgets == nil {
			t.budgets = make(map[Place]*Bucket)
		}
		b = new(NewBucket(answerRate, answerBurst))
		t.budgets[at] = b
	}
	if b.Wait(now, int64(count)) > 0 {
		return false
	}
	b.Take(now, int64(count))
	return true
}

// due says whether a question for the name crosses, though answers to it are known.
func (n *dnsNode) due(now, renewed Instant) bool {
	return n.asked <= renewed || now.Sub(n.asked) >= n.wait
}

// known says whether one of the questions need not cross, and adds to the answers those that it
// gets here.
func (q *asking) known(is *dnsQuestion) bool {
	node := q.s.Names.at[q.m.name(is.key)]
	if node == nil || node.partial || is.kind == dnsAny {
		return false
	}
	found, shared, sure := false, false, true
	for _, e := range node.entries {
		if e.kind != is.kind && !e.denies(is.kind) || e.over(q.now) {
			continue
		}
		found, shared = true, shared || !e.flush
		place, heard := q.s.Stations.Lookup(q.now, e.owner)
		if !heard {
			place = e.from
		}
		switch {
		case isPort(place): // its owner hears the question, too
		case q.has(e):
		case !heard || !q.there(place) || e.left(q.now) < e.ttl/5:
			sure = false
		default:
			q.answers = append(q.answers, e)
			q.knows[e.answer()] = e.ttl // of others, too
		}
	}
	return found && sure && (!shared || !node.due(q.now, q.s.Names.renewed))
}

// has says whether who asks knows a record, so that it needs no answer (RFC 6762 § 7.1).
func (q *asking) has(e *dnsEntry) bool {
	ttl, ok := q.knows[e.answer()]
	return ok && (ttl >= e.ttl/2 || ttl >= e.left(q.now))
}

func (r *dnsRecord) answer() dnsAnswer { return dnsAnswer{r.key, r.data, r.kind} }

func isPort(p Place) bool {
	_, here := p.Port()
	return here
}

// say returns frames that answer the one that asks, in the names of the machines whose records
// they tell; alone says that they are for who asks only (RFC 6762 § 5.4).
func (q *asking) say(frame []byte, alone bool) (all [][]byte) {
	type voice struct {
		owner  MAC
		source netip.Addr
	}
	var voices []voice
	for _, e := range q.answers {
		if v := (voice{e.owner, e.source}); !slices.Contains(voices, v) {
			voices = append(voices, v)
		}
	}
	for _, v := range voices {
		var body []byte
		for _, e := range q.answers {
			if (voice{e.owner, e.source}) != v || !alone && e.on == q.from && q.now.Sub(e.said) < dnsOnce {
				continue
			}
			if body != nil && len(body)+len(e.name)+10+len(e.data) > maxDNSMessage {
				all = append(all, q.m.reply(frame, v.owner, v.source, alone, body))
				body = nil
			}
			if body == nil {
				body = []byte{2: 0x84, dnsHeader - 1: 0}
			}
			body = e.append(body, max(1, e.left(q.now)))
			binary.BigEndian.PutUint16(body[6:], binary.BigEndian.Uint16(body[6:])+1)
			if !alone {
				e.said, e.on = q.now, q.from
			}
		}
		if body != nil {
			all = append(all, q.m.reply(frame, v.owner, v.source, alone, body))
		}
	}
	return all
}

// reply returns the frame by which a machine says a message, in reply to the frame that m was in.
func (m *dnsMessage) reply(frame []byte, owner MAC, source netip.Addr, alone bool, body []byte) []byte {
	size := 8 + len(body)
	var b []byte
	switch {
	case alone:
		b = append(b, frame[6:12]...)
	case source.Is4():
		b = append(b, 1, 0, 0x5e, 0, 0, 0xfb)
	default:
		b = append(b, 0x33, 0x33, 0, 0, 0, 0xfb)
	}
	b = append(append(b, owner[:]...), frame[12:m.ip]...)
	ip, from, to := len(b), source.AsSlice(), m.source.AsSlice()
	if source.Is4() {
		if !alone {
			to = mdnsGroup4[:]
		}
		b = append(b, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 255, protocolUDP, 0, 0) // don't fragment
		binary.BigEndian.PutUint16(b[ip+2:], uint16(20+size))
		b = append(append(b, from...), to...)
		putIPv4Checksum(b[ip:])
	} else {
		if !alone {
			to = mdnsGroup6[:]
		}
		b = append(b, 0x60, 0, 0, 0, byte(size>>8), byte(size), protocolUDP, 255)
		b = append(append(b, from...), to...)
	}
	udp := len(b)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, portMDNS), portMDNS)
	b = append(binary.BigEndian.AppendUint16(b, uint16(size)), 0, 0)
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[udp+6:], transportChecksum(add(pseudoSum(b[ip:], size, protocolUDP), b[udp:])))
	return b
}
