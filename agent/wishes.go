package agent

import (
	"strings"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/reserve"
)

// What the operator of an agent wants of its links, and of what it relays. It is told to
// all, so that their routes respect it.

// A linkWish is one --link.
type linkWish struct {
	Peer           string // its name, or its id
	Cost           time.Duration
	Prefer, Forbid bool
}

// wishes are what up's flags say of links and relaying.
type wishes struct {
	NoTransit    bool
	TransitLimit reserve.Rate // 0: none
	Cost         time.Duration
	Links        []linkWish
}

const maxLinkWishes = 64

// parseWishes understands the flags about links and relaying.
func (c *config) parseWishes(o *options, try func(error)) {
	w := &c.Wishes
	try(parseSwitch("--no-transit", o.noTransit, &w.NoTransit))
	if o.transitLimit != "" {
		rate, err := reserve.ParseRate(o.transitLimit)
		if err != nil {
			try(usagef("a rate, as 20Mbit")("--transit-limit: %w", err))
		}
		w.TransitLimit = rate
	}
	var err error
	w.Cost, err = parseCost("--cost", o.cost)
	try(err)
	if len(o.links) > maxLinkWishes {
		try(usagef("")("--link: more than %d", maxLinkWishes))
	}
	for _, s := range o.links[:min(len(o.links), maxLinkWishes)] {
		l, err := parseLinkWish(s)
		try(err)
		w.Links = append(w.Links, l)
	}
}

func parseCost(flag, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > discovery.MaxCost {
		return 0, usagef("what it shall count as longer than it is, as 20ms")("%s %q: want 0s to %v", flag, s, discovery.MaxCost)
	}
	return d, nil
}

// parseLinkWish cuts "PEER,cost=20ms,prefer".
func parseLinkWish(s string) (l linkWish, err error) {
	parts := strings.Split(s, ",")
	l.Peer = parts[0]
	bad := usagef("known after the peer: cost=…, prefer, forbid")
	if l.Peer == "" || len(parts) < 2 {
		return l, bad("--link %q: want PEER and what is wanted of the link to it", s)
	}
	for _, p := range parts[1:] {
		switch k, v, _ := strings.Cut(p, "="); {
		case p == "prefer":
			l.Prefer = true
		case p == "forbid":
			l.Forbid = true
		case k == "cost" && v != "":
			if l.Cost, err = parseCost("--link "+l.Peer+": cost", v); err != nil {
				return l, err
			}
		default:
			return l, bad("--link %q: don't understand %q", s, p)
		}
	}
	if l.Prefer && l.Forbid {
		return l, usagef("")("--link %q: preferred and forbidden", s)
	}
	return l, nil
}

// wish returns what is wanted of the link to p.
func (n *node) wish(p *peer) (i discovery.Intent) {
	for _, l := range n.cfg.Wishes.Links {
		if l.Peer == p.member.Name || l.Peer == p.id.String() {
			i.Cost, i.Prefer, i.Forbid = i.Cost+l.Cost, i.Prefer || l.Prefer, i.Forbid || l.Forbid
		}
	}
	return i
}

// intent returns what this agent tells of its link to p beside what it measured: what it
// has decided, and what its operator wishes.
func (n *node) intent(v measure.Pair, p *peer) discovery.Intent {
	i, keeps := n.wish(p), n.keeps(p.id)
	i.Holds, i.Leaving, i.Accepts = keeps.Holds, keeps.Leaving, keeps.Accepts
	if rate := carries(v); rate > 0 {
		i.Left = max(rate-p.carried.rate, 1000)
	}
	return i
}

// markForbidden says to the lanes whether an operator forbids the link to p: one of the two
// is enough.
func (n *node) markForbidden(p *peer) {
	forbidden := n.wish(p).Forbid
	for _, r := range n.routing.told[p.id].Rows {
		forbidden = forbidden || r.Forbid && r.Peer == discovery.BriefOf(n.self)
	}
	p.forbidden.Store(forbidden)
}

// relaysNothing says whether this agent passes nothing on.
func (n *node) relaysNothing() bool {
	return n.cfg.Wishes.NoTransit || !n.admission.rights().Has(discovery.RightRelay)
}

// newTransitLimit returns what a lane may pass on: nil if there is no limit.
func (n *node) newTransitLimit() *overlay.Bucket {
	rate := n.cfg.Wishes.TransitLimit.BitsPerSecond() / 8
	if rate == 0 {
		return nil
	}
	rate = max(rate/int64(n.lanes), 1)
	b := overlay.NewBucket(rate, max(rate/10, 1<<17)) // a tenth of a second
	return &b
}
