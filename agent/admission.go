package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/overlay"
)

const (
	// outsidersEvery is how often connections are looked through for agents whose
	// credentials are over. Revocations are acted on at once.
	outsidersEvery = 10 * time.Second
	// renewBefore is how long before its end a credential is a fault, or, if that
	// is less, a quarter of its time before.
	renewBefore = 30 * 24 * time.Hour
)

// admission is this agent's part in a signed network; nothing in a simple one.
type admission struct {
	network discovery.Network
	now     atomic.Pointer[discovery.Admission] // who is a member, for handshakes

	// The loop's own.
	own    discovery.Credential
	cause  error           // why this agent is no member, nil if it is one
	looked overlay.Instant // for outsiders among the connected, last
	expel  bool            // look at once
}

// rights returns what this agent may do.
func (a *admission) rights() discovery.Rights {
	if !a.network.Signed() {
		return discovery.AllRights
	}
	return a.own.Rights
}

// certify tells the libp2p node how a signed network admits its members.
func (n *node) certify(c *p2p.Config) {
	if !n.admission.network.Signed() {
		return
	}
	c.Admission = n.admission.now.Load
	c.Credential = n.admission.own
	c.Sponsor = n.sponsor
	c.Completed = func(c discovery.Credential) {
		n.mail.put(func(now overlay.Instant) { n.adopt(now, c) })
	}
}

// sponsor completes a newcomer's credential. It is called from elsewhere.
func (n *node) sponsor(ctx context.Context, c discovery.Credential) (discovery.Credential, error) {
	var done discovery.Credential
	var failed error
	if err := n.do(ctx, func(overlay.Instant) {
		done, failed = n.store.Sponsor(n.wall(), n.ident.key, c)
	}); err != nil {
		return discovery.Credential{}, err
	}
	return done, failed
}

// admit follows who is a member: it lets handshakes know, takes a credential that
// the admin has for this agent, and ends the connections of outsiders.
func (n *node) admit(now overlay.Instant) {
	a := &n.admission
	admits := n.store.Admission()
	changed := admits != a.now.Load() || a.looked == 0
	if admits == nil || !changed && !a.expel && now.Sub(a.looked) < outsidersEvery {
		return
	}
	a.expel, a.looked = false, now
	if changed {
		a.now.Store(admits)
		if n.stale == 0 {
			n.stale = now
		}
		n.takeRenewal(now)
		n.expelFar(admits)
	}
	was := a.cause
	_, a.cause = admits.Verify(n.wall(), n.self, a.own)
	if a.cause != nil && was == nil && !errors.Is(a.cause, discovery.ErrIncomplete) {
		n.log.Error("this agent is no member", "why", a.cause)
	}
	n.p2p.Expel(n.store.Credential)
}

// takeRenewal takes the credential that the admin has for this agent, unless it has
// a later one.
func (n *node) takeRenewal(now overlay.Instant) {
	statement, _ := n.store.Statement()
	c, ok := statement.Renewal(n.self)
	if !ok || bytes.Equal(c.Bytes(), n.admission.own.Bytes()) || c.NotBefore < n.admission.own.NotBefore {
		return
	}
	if _, err := c.Verify(n.wall(), n.admission.network.Admin(), n.self); err != nil {
		n.log.Warn("the admin's credential for this agent is not taken", "error", err)
		return
	}
	n.adopt(now, c)
}

// adopt makes c this agent's credential, without a restart: it is written down,
// told to all, and shown in the next handshakes. An agent that may not do any more
// what it is configured for ends.
func (n *node) adopt(now overlay.Instant, c discovery.Credential) {
	n.log.Info("this agent has a new credential", "rights", c.Rights.String(), "expires", time.Unix(c.NotAfter, 0).UTC())
	n.admission.own, n.admission.expel = c, true
	if err := n.state.keepCredential(n.admission.network, c); err != nil {
		n.log.Error("the credential can't be kept", "error", err)
	}
	if err := n.p2p.SetCredential(c); err != nil {
		n.log.Error("the credential can't be shown", "error", err)
	}
	if err := n.cfg.covers(c.Rights); err != nil {
		n.spawn("credential", func(context.Context) error { return err })
	}
	n.own.member, n.control.next = 0, 0 // tell
	n.publish(now)
}

// allowed says whether a member may do what it says of itself, and notes what it
// may do. Who bridges a LAN without the right isn't talked with at all: nobody can
// tell which of its frames come from there.
func (n *node) allowed(now overlay.Instant, p *peer, m discovery.Member) bool {
	rights, _ := n.store.Rights(p.id)
	if rights != p.rights {
		p.rights = rights
		n.publish(now)
	}
	return !m.LAN || rights.Has(discovery.RightBridge)
}

// excluded notes why somebody is no member any more.
func (n *node) excluded(c discovery.Change) {
	n.admission.expel = true
	if c.Kind == discovery.KindMember {
		n.log.Warn("no member any more", "id", c.Origin, "why", c.Cause)
	}
}

// credentialView shows this agent's credential, nil in a simple network.
func (n *node) credentialView() *credentialView {
	if !n.admission.network.Signed() {
		return nil
	}
	return viewOf(n.admission.own)
}

func viewOf(c discovery.Credential) *credentialView {
	v := &credentialView{Expires: time.Unix(c.NotAfter, 0).UTC(), Rights: rightNames(c.Rights), Complete: c.Complete()}
	if serial, ok := c.Invite(); ok {
		v.Invite = new(serial.String())
	}
	return v
}

func rightNames(r discovery.Rights) []string {
	if r == 0 {
		return []string{}
	}
	return strings.Split(r.String(), ",")
}

const admissionSigned = "signed"

// admissionName says how a network admits its members.
func admissionName(network discovery.Network) string {
	if network.Signed() {
		return admissionSigned
	}
	return "simple"
}

// checkCredential says how this agent's credential does; ok is false in a simple
// network.
func (n *node) checkCredential() (h healthView, ok bool) {
	a := &n.admission
	if !a.network.Signed() {
		return healthView{}, false
	}
	const again = "have the admin make a token with 'farlan invite', stop this agent, and give the token to 'farlan join'"
	left := time.Unix(a.own.NotAfter, 0).Sub(n.wall().Time()).Round(time.Second)
	soon := min(renewBefore, time.Duration(a.own.NotAfter-a.own.NotBefore)*time.Second/4)
	h = healthView{Check: "credential"}
	switch {
	case errors.Is(a.cause, discovery.ErrIncomplete):
		h.Detail, h.Hint = "the one-time invite waits for a member to receipt it", "a member must be reachable; if the check 'members' says that the invite is of no use any more, ask for a new one"
	case errors.Is(a.cause, discovery.ErrNotYet):
		h.Detail, h.Hint = a.cause.Error(), "set the clock right, with 'timedatectl set-ntp true' for example"
	case a.cause != nil:
		h.Detail, h.Hint = a.cause.Error(), again
	case left < soon:
		h.Detail, h.Hint = fmt.Sprintf("expires in %v", left), "have the admin renew it with 'farlan renew "+n.cfg.Name+"': this agent needs no restart"
	default:
		h.OK, h.Detail = true, fmt.Sprintf("rights %s, until %s", a.own.Rights, time.Unix(a.own.NotAfter, 0).UTC().Format(time.DateTime))
	}
	return h, true
}
