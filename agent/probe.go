package agent

import (
	"errors"
	"syscall"
	"time"

	"farlan/measure"
	"farlan/overlay"
)

// probe sends a probe, in a datagram of at least size bytes.
func (n *node) probe(now overlay.Instant, out *outbound, number uint32, size int) error {
	b := make([]byte, overlay.HeaderLen, max(size, 128))
	b = overlay.AppendProbe(b, overlay.Probe{Number: number, Sent: now}, false)
	if pad := size - overlay.TagLen - len(b); pad > 0 {
		b = b[:len(b)+pad]
	}
	d := out.session.Seal(overlay.KindProbe, 0, b)
	if d == nil {
		return nil
	}
	return n.post(n.ask, out, d, len(d))
}

// fathomEvery is how often the search for a path's MTU is looked after: much more
// often than a probe is waited for, and much less than the loop turns when many
// agents start at once.
const fathomEvery = 50 * time.Millisecond

// fathomRate is how many searches begin a second, after fathomBurst at once, for
// peers that nothing is sent to yet. Fifty agents that started together and
// searched all at once took 20 s to find each other instead of 9.
const (
	fathomRate  = 5
	fathomBurst = 8
)

// sizeProbe is the number of probes that ask only whether their size arrives.
const sizeProbe = 0

// fathom finds out what the MTU of the path to a peer is.
func (n *node) fathom(now overlay.Instant, p *peer, out *outbound) {
	header := out.around
	p.mu.Lock()
	if size := int(p.tooBig.Swap(0)); size != 0 {
		p.mtu.TooBig(now, size+header)
	}
	if at := overlay.Instant(p.filled.Swap(0)); at != 0 {
		p.mtu.Used()
	}
	rtt, _, _ := p.path.Smoothed()
	for {
		size, ok := p.mtu.Probe(now, rtt)
		if !ok {
			break
		}
		if err := n.probe(now, out, sizeProbe, size-header); errors.Is(err, syscall.EMSGSIZE) {
			p.mtu.TooBig(now, size)
		}
	}
	size := p.mtu.Size() - header
	// A search that follows one that failed proves nothing until it finds something.
	failed := p.mtu.State() == measure.MTUFailed || p.mtu.State() == measure.MTUSearching && out.fragment && size <= out.size
	p.mu.Unlock()
	if size != out.size || failed != out.fragment {
		n.log.Debug("path MTU", "peer", p.member.Name, "mtu", size+header, "fragmented", failed)
		next := *out
		next.size, next.fragment = size, failed
		p.out.Store(&next)
	}
}
