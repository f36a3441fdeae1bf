package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// A ring is an application: in each round every machine sends a block to the next one, and
// none begins the next round before all have theirs.
type ring struct {
	in, out []net.Conn
}

const ringPort = 7007

// newRing connects the machines.
func newRing(ctx context.Context, hosts []Host, addrs []netip.Addr) (r *ring, err error) {
	r = &ring{in: make([]net.Conn, len(hosts)), out: make([]net.Conn, len(hosts))}
	listeners := make([]net.Listener, len(hosts))
	for i, h := range hosts {
		if err = onHost(h.Namespace, func() (err error) {
			listeners[i], err = new(net.ListenConfig).Listen(ctx, "tcp4", netip.AddrPortFrom(addrs[i], ringPort).String())
			return err
		}); err != nil {
			return r, err
		}
		defer listeners[i].Close()
	}
	for i, h := range hosts {
		next := (i + 1) % len(hosts)
		if err = onHost(h.Namespace, func() (err error) {
			r.out[i], err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp4", netip.AddrPortFrom(addrs[next], ringPort).String())
			return err
		}); err != nil {
			return r, err
		}
		if r.in[next], err = listeners[next].Accept(); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *ring) close() {
	for _, c := range append(slices.Clone(r.in), r.out...) {
		if c != nil {
			_ = c.Close()
		}
	}
}

// round sends a block of bytes from each to the next.
func (r *ring) round(block []byte) error {
	var wg sync.WaitGroup
	errs := make([]error, 2*len(r.in))
	for i := range r.in {
		wg.Go(func() { _, errs[2*i] = r.out[i].Write(block) })
		wg.Go(func() { _, errs[2*i+1] = io.CopyN(io.Discard, r.in[i], int64(len(block))) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rate runs rounds for a while and returns what each machine sends, Mbit/s.
func (r *ring) rate(t *testing.T, during time.Duration) float64 {
	t.Helper()
	block := make([]byte, 1<<20)
	began, rounds := time.Now(), 0
	for time.Since(began) < during {
		if err := r.round(block); err != nil {
			t.Fatal(err)
		}
		rounds++
	}
	return float64(rounds*len(block)*8) / time.Since(began).Seconds() / 1e6
}

// An application whose machines form a ring runs over a star of links, through a hub whose way
// out is narrow, as slowly as that lets it; with the agents' own links and routes, and no
// change to the machines, it is much faster. (VNET's overlay began as such a star.) With
// FARLAN_LONG there are eight sites.
func TestRingLeavesTheStar(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Sites, o.VMs = 4, 1
	during, narrow := 4*time.Second, "20mbit"
	if os.Getenv("FARLAN_LONG") != "" {
		o.Sites, during, narrow = 8, 20*time.Second, "40mbit"
	}
	o.Shape = Shape{Delay: 10 * time.Millisecond, Rate: 20_000, Queue: Queue{Time: DefaultQueue}}
	l := up(t, o)
	if _, err := l.mustHost(t, "home-router").run(within(t, 5*time.Second), "tc", "qdisc", "add", "dev", "wan0", "root", "tbf", "rate", narrow, "burst", "64kb", "latency", "50ms"); err != nil {
		t.Fatal(err)
	}
	var sites []string
	var vms []Host
	var addrs []netip.Addr
	for i := 1; i < o.Sites; i++ {
		site := fmt.Sprint("site", i)
		sites, vms = append(sites, site), append(vms, l.mustHost(t, site+"-vm1"))
		lease, err := l.leaseOf(vms[i-1])
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, lease.Address)
	}
	// restart starts the agents of the sites anew, with more flags.
	restart := func(flags func(site string) []string) {
		for _, s := range sites {
			p, err := l.agentProcess(s)
			if err == nil {
				err = l.stopAgent(within(t, 20*time.Second), s)
			}
			if err != nil {
				t.Fatal(err)
			}
			args := slices.Clone(p.Args)
			p.Args = append(slices.Clone(args), flags(s)...)
			if err = l.restartAgent(within(t, 30*time.Second), s); err != nil {
				t.Fatal(err)
			}
			p.Args = args
		}
		for i := range vms {
			eventually(t, time.Minute, func() error {
				p, err := vms[i].ping(within(t, 20*time.Second), addrs[(i+1)%len(addrs)], 3, 100*time.Millisecond)
				if err == nil && p.Received == 0 {
					err = fmt.Errorf("%v", p)
				}
				return err
			})
		}
	}
	run := func() float64 {
		r, err := newRing(within(t, time.Minute), vms, addrs)
		defer r.close()
		if err != nil {
			t.Fatal(err)
		}
		r.rate(t, during) // the agents see what it does
		return r.rate(t, during)
	}
	restart(func(site string) (flags []string) {
		for _, other := range sites {
			if other != site {
				flags = append(flags, "--link", other+",forbid")
			}
		}
		return flags
	})
	l.takes(t, "delay", 30*time.Second, "site1", "home", "site2")
	star := run()
	restart(func(string) []string { return nil })
	own := run()
	t.Logf("a ring of %d machines: %.1f Mbit/s each over the star, %.1f over what the agents chose: %.2f times as fast", len(vms), star, own, own/star)
	if own < 1.8*star {
		t.Error("the goal is 1.8 times")
	}
}
