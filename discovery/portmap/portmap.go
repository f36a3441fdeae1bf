//go:build linux

// Package portmap asks the router of this host's network to hand a port of its own on
// to the agent's, UDP and TCP by the same number: by NAT-PMP (RFC 6886), and if the
// router doesn't know that, by UPnP (UPnP Forum, WANIPConnection:2).
//
// What a router says is anybody's who can send on that network, so nothing of it is
// believed that costs anything: only the default router is asked and heard, answers
// are bounded in time and size, and names of other hosts in them lead nowhere. The
// worst that a false one does is an address at which nobody answers.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

const (
	// lease is how long a router keeps what isn't asked for again, and renewEvery how
	// often it is: a router that starts again has forgotten it.
	lease      = 30 * time.Minute
	renewEvery = 10 * time.Minute
	leastLease = time.Minute // that is believed
	// A router that gives nothing is asked again after againFirst, then after twice as
	// long each time, up to renewEvery.
	againFirst = 30 * time.Second
	// settle is what is waited after a move, as addresses and routes change in turns.
	settle = 500 * time.Millisecond
	// askTimeout bounds one turn of questions, and endTimeout the goodbye.
	askTimeout = 20 * time.Second
	endTimeout = 2 * time.Second
	// maxPorts is how many ports of the router are tried that others have.
	maxPorts = 4
)

// Errors that a State may hold.
var (
	errNoRouter = errors.New("this host has no default route by IPv4")
	errTaken    = errors.New("the router's port is another host's")
)

// A Config says what is asked for. Its functions are called from Run's goroutine and
// must not block.
type Config struct {
	Port   uint16                   // of this host, UDP and TCP
	Usable func(net.Interface) bool // says whether an interface may lead to the router
	Tell   func(State)              // of every change
	Moved  <-chan struct{}          // something came: this host's addresses or routes changed
}

// A State is what came of it.
type State struct {
	External netip.AddrPort // where the router takes what it hands on; not valid: nowhere
	Router   netip.Addr     // not valid: there is none
	By       string         // "NAT-PMP" or "UPnP"
	Err      error          // why External isn't valid; nil also before the first answer
}

// A lan is the router, and the address and interface by which this host reaches it.
type lan struct {
	router, self netip.Addr
	device       *net.Interface
}

// A protocol is a way to ask a router. Its methods return before ctx ends, or within a
// second after.
type protocol interface {
	name() string
	// external returns the router's own address, to the outside.
	external(ctx context.Context) (netip.Addr, error)
	// add asks for an outside port of a network, "udp" or "tcp", and returns the one
	// that was given, and for how long. errTaken: another host has it.
	add(ctx context.Context, network string, inside, outside uint16) (uint16, time.Duration, error)
	remove(ctx context.Context, network string, inside, outside uint16) error
}

// A granted is what a router hands on.
type granted struct {
	lan
	by       protocol
	external netip.AddrPort
	until    time.Time // as far as the router says
}

func (g *granted) state() State {
	return State{External: g.external, Router: g.router, By: g.by.name()}
}

// Run keeps the port mapped until ctx ends; then it takes it back, which may take
// endTimeout.
func Run(ctx context.Context, c Config) error {
	var have *granted
	var told State
	again := againFirst
	for ctx.Err() == nil {
		got, state := ask(ctx, c, have)
		sleep := again
		again = min(2*again, renewEvery)
		switch {
		case got != nil:
			sleep, again = min(time.Until(got.until)/2, renewEvery), againFirst
		case have != nil && have.router == state.Router && time.Now().Before(have.until):
			got, state = have, have.state() // it hands on until then, though it doesn't answer
		}
		if have != nil && (got == nil || got.router != have.router || got.external.Port() != have.external.Port()) {
			have.end(c.Port)
		}
		if have = got; !state.same(told) && ctx.Err() == nil {
			told = state
			c.Tell(state)
		}
		select {
		case <-ctx.Done():
		case <-time.After(sleep):
		case <-c.Moved:
			again = againFirst
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		}
	}
	if have != nil {
		have.end(c.Port)
	}
	return nil
}

// same says whether s says what o does.
func (s State) same(o State) bool {
	return s.External == o.External && s.Router == o.Router && s.By == o.By && errText(s.Err) == errText(o.Err)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ask asks for the port, the one that was given before first.
func ask(ctx context.Context, c Config, have *granted) (*granted, State) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	at, err := router(c.Usable)
	if err != nil {
		return nil, State{Err: err}
	}
	var errs []error
	for _, open := range []func(context.Context, lan) (protocol, error){openPMP, openUPnP} {
		p, err := open(ctx, at)
		if err == nil {
			var g *granted
			if g, err = grant(ctx, at, p, c.Port, have); err == nil {
				return g, g.state()
			}
		}
		errs = append(errs, err)
	}
	return nil, State{Router: at.router, Err: fmt.Errorf("%w; %w", errs[0], errs[1])}
}

// grant asks a router for one port of both networks.
func grant(ctx context.Context, at lan, p protocol, inside uint16, have *granted) (*granted, error) {
	addr, err := p.external(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: external address: %w", p.name(), err)
	}
	if !addr.Is4() || !addr.IsGlobalUnicast() {
		return nil, fmt.Errorf("%s: the router has no address outside (%v)", p.name(), addr)
	}
	want := inside
	if have != nil && have.router == at.router {
		want = have.external.Port()
	}
	for range maxPorts {
		if err = ctx.Err(); err != nil {
			break
		}
		var udp, tcp uint16
		var long, short time.Duration
		if udp, long, err = p.add(ctx, "udp", inside, want); err == nil {
			if tcp, short, err = p.add(ctx, "tcp", inside, udp); err == nil && tcp == udp {
				until := time.Now().Add(max(min(long, short, lease), leastLease))
				return &granted{at, p, netip.AddrPortFrom(addr, udp), until}, nil
			}
			// One of both is of no use: an address of an agent is for both.
			_ = p.remove(ctx, "udp", inside, udp)
			if err == nil {
				_ = p.remove(ctx, "tcp", inside, tcp)
				err = errTaken
			}
		}
		if !errors.Is(err, errTaken) {
			break
		}
		want = 1024 + uint16(rand.UintN(1<<16-1024))
	}
	return nil, fmt.Errorf("%s: map port %d: %w", p.name(), inside, err)
}

// end takes back what the router hands on.
func (g *granted) end(inside uint16) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	for _, network := range []string{"udp", "tcp"} {
		_ = g.by.remove(ctx, network, inside, g.external.Port()) // else its lease ends some time
	}
}
