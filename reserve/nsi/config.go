// Package nsi reserves circuits of research networks: it is a requester of the Network Service
// Interface, Connection Service 2.1 (GFD.237), which ESnet, SURF, GÉANT and the AutoGOLE run. A
// circuit is a VLAN at either end, policed to its capacity; behind its edge it has to be shaped
// to a little less by the sender.
//
// What real providers do wrong is expected: the data plane is up when the provider says that of
// the data plane, not when it confirms a provision; what it confirms is compared with what was
// asked; ends are checked against our own clock before they are sent, and are over by it; a
// confirmation that doesn't come is looked for by asking.
package nsi

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

const (
	defaultService = "http://services.ogf.org/nsi/2013/07/descriptions/EVTS.A-GOLE"
	// nobody is where those take callbacks who take none: providers want a replyTo, and no name
	// below .invalid ever has an address (RFC 6761 § 6.4).
	nobody = "https://nobody.invalid/nsi"

	maxEnds = 1024
)

// Config says how a provider is asked, and for what.
type Config struct {
	URL       string // the provider's connection service; https
	Requester string // our NSA identifier, urn:ogf:network:…
	Provider  string // the provider's
	// Certificate and Key are PEM files by which the provider knows us, read anew for each
	// connection; Authorities has the certificates of those who sign the provider's.
	Certificate, Key, Authorities string
	// Callback is where the provider tells us of what has happened; without it we ask.
	Callback Callback
	// Self is this agent. Ends are where agents are attached to the network; only between two
	// of them a circuit can be asked for.
	Self overlay.AgentID
	Ends map[overlay.AgentID]End
	// Subnet is where the agents' addresses on circuits are taken from: four for each VLAN, so
	// /18 or larger, IPv4. Without it a Mark has no addresses.
	Subnet netip.Prefix

	Service string // the service type; "" is EVTS.A-GOLE, whose capacities are Mbit/s
	// Version is what a first reserve is numbered. OpenNSA takes and confirms 0; providers by
	// the letter of the standard want 1.
	Version int
	Modify  bool // the provider may be asked for modifications; it may still refuse them

	Longest      time.Duration // the furthest end that is asked for; 0: an hour
	CommitWithin time.Duration // what is held is committed so soon or never; 0: 110 s of the usual 120
	Exchange     time.Duration // for one request and its reply; 0: 15 s
	Patience     time.Duration // for what follows the reply; 0: a minute
	Poll         time.Duration // how often is asked what a request has come to; 0: each second, with callbacks each five
	Watch        time.Duration // how often is looked at all circuits; 0: each 15 s, with callbacks each minute

	Now func() overlay.Instant
}

// A Callback is a server of ours.
type Callback struct {
	Listener net.Listener // owned by the driver from Open on; nil: there is none
	URL      string       // by which the provider reaches it; https
	Caller   string       // the host name in the caller's certificate; "": that of the provider's URL
}

// An End is where an agent is attached.
type End struct {
	STP      string       // with the VLANs that may be used, "urn:ogf:network:…:port?vlan=100-109"
	Capacity reserve.Rate // of the port; more is never asked for, of all circuits together
	Device   string       // the interface there; circuits are "device.vlan". "": not known
}

// fill puts in what wasn't said.
func (c *Config) fill() {
	def := func(d *time.Duration, polling, called time.Duration) {
		if *d == 0 && c.Callback.Listener != nil {
			*d = called
		} else if *d == 0 {
			*d = polling
		}
	}
	def(&c.Longest, time.Hour, time.Hour)
	def(&c.CommitWithin, 110*time.Second, 110*time.Second)
	def(&c.Exchange, 15*time.Second, 15*time.Second)
	def(&c.Patience, time.Minute, time.Minute)
	def(&c.Poll, time.Second, 5*time.Second)
	def(&c.Watch, 15*time.Second, time.Minute)
	if c.Service == "" {
		c.Service = defaultService
	}
	if u, err := url.Parse(c.URL); err == nil && c.Callback.Caller == "" {
		c.Callback.Caller = u.Hostname()
	}
}

// Validate says all that is wrong with it.
func (c *Config) Validate() error {
	var all []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			all = append(all, fmt.Errorf("nsi: "+format, a...))
		}
	}
	bad(!secure(c.URL), "url %q: want https://host/path", c.URL)
	bad(!nsa(c.Requester), "requester %q: want an NSA identifier, urn:ogf:network:…", c.Requester)
	bad(!nsa(c.Provider), "provider %q: want an NSA identifier, urn:ogf:network:…", c.Provider)
	bad(c.Certificate == "" || c.Key == "", "certificate and key: providers know requesters by client certificates, name two PEM files")
	bad(c.Authorities == "", "authorities: name a PEM file with the certificates of those who sign the provider's")
	bad(c.Callback.Listener != nil && !secure(c.Callback.URL), "callback url %q: want https://host:port/path as the provider reaches it, or no callback", c.Callback.URL)
	bad(c.Subnet.IsValid() && (!c.Subnet.Addr().Is4() || c.Subnet.Bits() > 18), "subnet %v: want an IPv4 one of /18 or larger", c.Subnet)
	bad(len(c.Ends) < 2 || len(c.Ends) > maxEnds, "%d ends: want two at least, %d at most", len(c.Ends), maxEnds)
	bad(c.Version < 0 || c.Version > 1, "version %d: want 0 or 1", c.Version)
	bad(c.Now == nil, "no clock")
	for _, d := range []time.Duration{c.Longest, c.CommitWithin, c.Exchange, c.Patience, c.Poll, c.Watch} {
		bad(d < 0, "a negative duration, %v", d)
	}
	for id, e := range c.Ends {
		stp, err := cs.ParseSTP(e.STP)
		bad(err != nil, "end of %v: %v", id, err)
		bad(err == nil && len(stp.VLANs) == 0, "end of %v: %q has no VLANs: put ?vlan=100-109 or the like behind it", id, e.STP)
		bad(e.Capacity < reserve.Mbit, "end of %v: a port of %v: say how much it carries, 1Mbit at least", id, e.Capacity)
		bad(len(e.Device) > 10, "end of %v: device %q: .4094 behind it must still fit into 15 bytes", id, e.Device)
	}
	return errors.Join(all...)
}

func secure(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Hostname() != ""
}

func nsa(s string) bool {
	return strings.HasPrefix(s, "urn:ogf:network:") && len(s) < 256 && !strings.ContainsAny(s, " \t\r\n<>")
}
