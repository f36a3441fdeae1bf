package segment

import (
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// Every is how often a port that hears others tells of itself.
	Every = 250 * time.Millisecond
	// Alone is how often one does that hears nobody: enough for whoever comes next, who says
	// so at once.
	Alone = 500 * time.Millisecond
	// Lease is how long a leader forwards after it sent a beacon that was granted: six of
	// them may be lost in a row.
	Lease = 1500 * time.Millisecond
	// Promise is how long whoever granted a lease keeps still after the beacon came.
	Promise = 1750 * time.Millisecond
	// Silence is how long a port that was heard must be silent until a leader goes on without
	// its grants: half a lease, so that it needn't stop for one that died.
	Silence = 750 * time.Millisecond
	// Listen is how long a port listens before it forwards, when it starts or didn't run.
	Listen = 600 * time.Millisecond
	// grace is how long a leader waits for the first grant of a port that it hears since a
	// moment and that doesn't forward: less than that one listens.
	grace = 500 * time.Millisecond
	// gap is how long a port may not have run until what it didn't hear tells it nothing.
	gap = 400 * time.Millisecond
	// soonest is the least time between two beacons.
	soonest = 20 * time.Millisecond
	// skew is how far wall clocks may differ of ports that don't hear each other both ways.
	skew = 5 * time.Minute

	calmTakeovers = 3 // a minute; with more each waits twice as long, from holdFirst
	holdFirst     = time.Second
	maxHold       = 8 * time.Second

	remembered = 64 // beacons that were sent, and ports that were heard
)

// A Role is what a port does.
type Role uint8

// Roles. The zero Role is none.
const (
	_          Role = iota
	Listening       // it has just started
	Forwarding      // it forwards, or will when the others agree
	Standby         // another one forwards
	Blocked         // so it does, and somebody has joined the segments of both
)

// An Other is another port on the segment.
type Other struct {
	Name
	Label      string
	Forwarding bool
	Joined     bool // it had a segment of its own before
	Heard      overlay.Instant
}

type other struct {
	Beacon
	tag   Tag
	heard overlay.Instant
	since overlay.Instant // it has granted nobody's lease
	named Heard           // what it says of this port
}

// A Port is what one of an agent's ports knows of its segment, and decides. It is not safe for
// concurrent use. Use New.
type Port struct {
	self   Beacon // without Heard
	tag    Tag
	others []*other // by name, MaxHeard at most

	leader    Tag
	promise   overlay.Instant // to leader, if that is another one
	until     overlay.Instant // the lease's end
	was       bool            // forwarding, when it was looked at last
	led       overlay.Instant // when it forwarded last, since it has been the leader
	listening overlay.Instant // until when
	hold      overlay.Instant // not to lead before
	ticked    overlay.Instant
	sent      [remembered]overlay.Instant // by number
	due       overlay.Instant
	patience  time.Duration // how long hold will be
	takeovers [remembered]overlay.Instant
	taken     int
	known     []Tag // met while one of both didn't forward, newest last
	joined    []Tag // met while both did
	last      []newest
	unproven  []Heard // one at most: whoever it names can prove by that to be of this time
}

// newest is the newest beacon of a port; they are in the order in which these came.
type newest struct {
	tag    Tag
	epoch  uint64
	number uint32
}

// New returns a port that starts now; epoch must be higher than at its last start.
func New(now overlay.Instant, self Name, label string, epoch uint64) *Port {
	return &Port{
		self: Beacon{Name: self, Label: label[:min(len(label), labelLen)], Epoch: epoch, Able: true, Useful: true},
		tag:  self.Tag(), listening: now.Add(Listen), ticked: now, due: now,
	}
}

// Until returns until when the port forwards, 0 if it doesn't.
func (p *Port) Until() overlay.Instant { return p.until }

// Role returns what the port does.
func (p *Port) Role(now overlay.Instant) Role {
	switch {
	case now.Before(p.until):
		return Forwarding
	case slices.ContainsFunc(p.others, func(o *other) bool { return p.isJoined(o) }):
		return Blocked
	case p.leader == 0 && now.Before(p.listening):
		return Listening
	case p.leader == p.tag:
		return Forwarding
	}
	return Standby
}

// Others returns the other ports on the segment, by name.
func (p *Port) Others() (all []Other) {
	for _, o := range p.others {
		all = append(all, Other{o.Name, o.Label, o.Forwarding, p.isJoined(o), o.heard})
	}
	return all
}

// Leader returns the port that forwards, as far as this one knows.
func (p *Port) Leader() (Name, bool) {
	if p.leader == p.tag {
		return p.self.Name, true
	}
	for _, o := range p.others {
		if o.tag == p.leader {
			return o.Name, true
		}
	}
	return Name{}, false
}

// Set says whether the port works, and whether its agent has others to forward to.
func (p *Port) Set(now overlay.Instant, able, useful bool) {
	if p.self.Able == able && p.self.Useful == useful {
		return
	}
	p.self.Able, p.self.Useful = able, useful
	p.due = now
	p.decide(now)
}

// Receive takes a beacon that was proven and didn't come from this port; wall is the wall
// clock's time. It says whether the beacon is believed.
func (p *Port) Receive(now, wall overlay.Instant, b Beacon) bool {
	p.wake(now)
	i, found := slices.BinarySearchFunc(p.others, b.Name, func(o *other, n Name) int { return o.Compare(n) })
	named := p.namedBy(&b)
	if !p.believes(wall, &b, named) {
		return false
	}
	if !found {
		if len(p.others) >= MaxHeard {
			if i == MaxHeard { // the lowest names are kept: one of them leads
				return false
			}
			p.others = slices.Delete(p.others, MaxHeard-1, MaxHeard)
		}
		p.others = slices.Insert(p.others, i, &other{tag: b.Tag(), since: now})
		p.meet(now, p.others[i], &b)
		p.due = now
	}
	o := p.others[i]
	if b.Leader == 0 && o.Leader != 0 {
		o.since = now
	}
	if b.Leader != o.Leader || b.Forwarding != o.Forwarding {
		p.due = min(p.due, now.Add(soonest))
	}
	b.Heard = nil
	o.Beacon, o.heard, o.named = b, now, named

	if named.Joined {
		p.joined = note(p.joined, o.tag)
	}
	if p.leader == o.tag {
		p.promise = now.Add(Promise)
	}
	p.decide(now)
	return true
}

// believes says whether a beacon is newer than what was heard of its port, and of this time:
// it names a number that was told a moment ago, or the wall clocks agree.
func (p *Port) believes(wall overlay.Instant, b *Beacon, named Heard) bool {
	tag := b.Tag()
	i := slices.IndexFunc(p.last, func(h newest) bool { return h.tag == tag })
	if i >= 0 && b.Epoch == p.last[i].epoch && b.Number <= p.last[i].number {
		return false
	}
	off := wall.Sub(b.Wall)
	timely := off > -skew && off < skew && (i < 0 || b.Epoch > p.last[i].epoch)
	if _, answers := p.sentAt(named); !answers && !timely && (i < 0 || b.Epoch != p.last[i].epoch) {
		p.unproven = []Heard{{Tag: tag, Epoch: uint32(b.Epoch), Number: b.Number}}
		return false
	}
	if i >= 0 {
		p.last = slices.Delete(p.last, i, i+1)
	} else if len(p.last) >= remembered {
		p.last = slices.Delete(p.last, 0, 1)
	}
	p.last = append(p.last, newest{tag, b.Epoch, b.Number})
	return true
}

func (p *Port) namedBy(b *Beacon) Heard {
	for _, h := range b.Heard {
		if h.Tag == p.tag && h.Epoch == uint32(p.self.Epoch) {
			return h
		}
	}
	return Heard{}
}

// sentAt returns when the beacon was sent that another port has heard.
func (p *Port) sentAt(h Heard) (overlay.Instant, bool) {
	if h.Number == 0 || h.Number > p.self.Number || p.self.Number-h.Number >= remembered {
		return 0, false
	}
	return p.sent[h.Number%remembered], true
}

// meet notes whether another port that is heard since now had a segment of its own.
func (p *Port) meet(now overlay.Instant, o *other, b *Beacon) {
	switch {
	case o.tag == p.tag:
	case b.Agent == p.self.Agent, now.Before(p.until) && b.Forwarding && !slices.Contains(p.known, o.tag):
		p.joined = note(p.joined, o.tag)
	case !p.isJoined(o):
		p.known = note(p.known, o.tag)
	}
}

func (p *Port) isJoined(o *other) bool { return slices.Contains(p.joined, o.tag) }

// note adds t to tags, of which there are so many at most.
func note(tags []Tag, t Tag) []Tag {
	if slices.Contains(tags, t) {
		return tags
	}
	if len(tags) >= remembered {
		tags = slices.Delete(tags, 0, 1)
	}
	return append(tags, t)
}

// wake notices that the port didn't run for a while: that it heard nobody tells nothing.
func (p *Port) wake(now overlay.Instant) {
	away := now.Sub(p.ticked)
	p.ticked = now
	if away <= gap {
		return
	}
	if !now.Before(p.until) {
		p.listening = now.Add(Listen)
		if p.leader == p.tag {
			p.leader, p.led = 0, 0
		}
	}
	if p.leader != p.tag && p.leader != 0 {
		p.due = now.Add(Every) // first what waits is heard, or the leader would be told an old number
	}
}

// Tick does what is due by now, and returns when it is to be called next.
func (p *Port) Tick(now overlay.Instant) overlay.Instant {
	p.wake(now)
	p.decide(now)
	return min(max(p.due, p.sent[p.self.Number%remembered].Add(soonest)), now.Add(gap/4))
}

// Beacon returns the beacon that is to be sent now, if one is; it must be sent at once, and
// belongs to the port.
func (p *Port) Beacon(now, wall overlay.Instant) (*Beacon, bool) {
	if now.Before(p.due) || p.self.Number != 0 && now.Sub(p.sent[p.self.Number%remembered]) < soonest {
		return nil, false
	}
	b := &p.self
	b.Number++
	if b.Number == 0 { // after thirty years
		b.Number, b.Epoch = 1, b.Epoch+1
	}
	b.Wall, b.Leader = wall, p.leader
	p.sent[b.Number%remembered] = now
	p.decide(now)
	b.Forwarding, b.Leads, b.Leader = now.Before(p.until), p.leads(now), p.leader
	told := *b
	for _, o := range p.others {
		told.Heard = append(told.Heard, Heard{o.tag, uint32(o.Epoch), o.Number, p.isJoined(o)})
	}
	told.Heard = append(told.Heard, p.unproven...)
	told.Heard, p.unproven = told.Heard[:min(len(told.Heard), MaxHeard)], nil
	p.due = now.Add(Every)
	switch {
	case now.Before(p.listening) && p.leader == 0:
		p.due = now.Add(Listen / 4)
	case len(p.others) == 0:
		p.due = now.Add(Alone)
	}
	return &told, true
}
