package lab

import (
	"context"
	"fmt"
	"time"
)

// What the demo claims. The bounds are for the default lab on a machine with
// two cores; the figures that it prints are usually far below.
const (
	meetBound    = 5 * time.Second  // from the far agents' start until all see each other
	leaseBound   = time.Second      // from a machine's first DHCP packet to its address
	bootBound    = 60 * time.Second // from a guest's power-on to its address: it is emulated
	suspectBound = 10 * time.Second // from an agent's sudden end until the others doubt it
	goneBound    = 30 * time.Second // … until they give it up
	returnBound  = 5 * time.Second  // from its start until traffic flows again
)

// fetchBytes is what the demo sends over TCP; in this many bytes the default
// lab's loss shows.
const fetchBytes = 4 << 20

// place builds the networks.
func (s *story) place(ctx context.Context) error {
	if err := s.buildNetwork(ctx); err != nil {
		return err
	}
	if err := s.startServices(ctx); err != nil {
		return err
	}
	shape := s.Options.Shape
	s.say("%d namespaces and a wide area: %v ± %v each way, %v, %v of the packets lost",
		len(s.hosts(func(h Host) bool { return h.Namespace != "" })), shape.Delay, shape.Jitter, shape.Rate, shape.Loss)
	s.say("home: the LAN %v with a router, a DHCP server, two hosts and a proxy with one card", lan)
	s.say("far: %d sites, whose machines have no address yet", s.Options.Sites-1)
	return nil
}

// agents makes the key and starts the first agent.
func (s *story) agents(ctx context.Context) error {
	id, err := s.makeKey(ctx)
	if err != nil {
		return err
	}
	s.say("a network key is made; its fingerprint is %s", id)
	s.bootstrap, err = s.startFirst(ctx)
	if err != nil {
		return err
	}
	s.say("home's agent is ready; the only address that the others are told:")
	s.say("%s", s.bootstrap)
	return nil
}

// meeting starts the far agents and watches until every agent sees every other.
func (s *story) meeting(ctx context.Context) error {
	start := time.Now()
	for _, h := range s.hosts(func(h Host) bool { return h.Kind == KindFar }) {
		if _, err := s.startAgent(h, s.bootstrap); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 4*meetBound)
	defer cancel()
	agents := s.hosts(Host.hasAgent)
	seen := make(map[[2]string]bool)
	err := poll(ctx, 20*time.Millisecond, func() error {
		for _, h := range agents {
			s.noteMeetings(ctx, h.Site, seen, start)
		}
		if n := len(agents) * (len(agents) - 1); len(seen) < n {
			return fmt.Errorf("only %d of %d pairs see each other", len(seen), n)
		}
		return nil
	})
	took := time.Since(start)
	s.claim(err == nil && took <= meetBound, fmt.Sprintf("all agents see each other within %.0f s", meetBound.Seconds()), "%.2f s", took.Seconds())
	if err != nil {
		return err
	}
	for _, h := range agents {
		if _, err = s.ready(ctx, h.Site); err != nil {
			return err
		}
	}
	s.say("they are ready, after %.2f s: by then each knows that nobody else forwards for its LAN", time.Since(start).Seconds())
	return nil
}

// noteMeetings tells which agents a site's agent sees now and did not before.
func (s *story) noteMeetings(ctx context.Context, site string, seen map[[2]string]bool, start time.Time) {
	peers, err := s.peers(ctx, site)
	if err != nil {
		return // it isn't ready yet
	}
	for _, p := range peers {
		pair := [2]string{site, p.Name}
		if p.Name == site || p.State != "up" || seen[pair] {
			continue
		}
		seen[pair] = true
		s.say("%s sees %s, %s, after %.2f s", site, p.Name, p.Path, time.Since(start).Seconds())
	}
}

// leases gets the far machines their addresses.
func (s *story) leases(ctx context.Context) error {
	start := time.Now()
	if err := s.startVMs(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootBound+4*leaseBound)
	defer cancel()
	var took time.Duration
	for _, h := range s.hosts(isFarMachine) {
		var got Lease
		err := poll(ctx, 5*time.Millisecond, func() (err error) { got, err = s.leaseAt(h); return err })
		if err != nil {
			return fmt.Errorf("%s got no address: %w", h.Name, err)
		}
		took = time.Since(start)
		s.say("%s has %v from home's DHCP server %v, after %.2f s", h.Name, got.Address, got.Server, took.Seconds())
		if !leaseLow.Less(got.Address) && got.Address != leaseLow || got.Server != dhcpIP {
			return fmt.Errorf("%s's lease is not from home's DHCP server", h.Name)
		}
	}
	bound, text := leaseBound, "far machines have home addresses within %.0f s"
	if s.Options.QEMU {
		bound, text = bootBound, "guests boot and have home addresses within %.0f s"
	}
	s.claim(took <= bound, fmt.Sprintf(text, bound.Seconds()), "%.2f s", took.Seconds())
	return nil
}

// traffic pings and fetches over the overlay.
func (s *story) traffic(ctx context.Context) error {
	far := s.hosts(isFarMachine)
	// The quickest packet shows the path; the others show this machine's load.
	low := 2 * (s.Options.Shape.Delay - s.Options.Shape.Jitter)
	high := low + low/2 + 10*time.Millisecond
	for _, h := range far {
		p, err := s.pingFromHome(ctx, h, 10)
		if err != nil {
			return err
		}
		s.say("home's host-a pings %s: %v", h.Name, p)
		s.claim(p.Received >= 8 && p.Min >= low && p.Min <= high, "home and "+h.Name+" reach each other", "%v", p)
	}
	if s.Options.QEMU {
		return s.guestTraffic(ctx, far)
	}
	last := far[len(far)-1]
	lease, err := s.leaseAt(last)
	if err != nil {
		return err
	}
	p, err := far[0].ping(ctx, lease.Address, 10, 200*time.Millisecond)
	if err != nil {
		return err
	}
	s.say("%s pings %s: %v", far[0].Name, last.Name, p)
	s.claim(p.Received >= 8 && p.Min <= high, "far sites reach each other, not through home", "%v", p)
	t, err := far[0].fetch(ctx, fetchBytes)
	if err != nil {
		return err
	}
	s.say("%s fetches a file from host-a: %v", far[0].Name, t)
	s.claim(t.Right, "TCP from home to a far site", "%v", t)
	return nil
}

// guestTraffic reports what the guests say of their own downloads.
func (s *story) guestTraffic(ctx context.Context, guests []Host) error {
	ctx, cancel := context.WithTimeout(ctx, bootBound)
	defer cancel()
	for _, h := range guests {
		if err := s.awaitGuest(ctx, h); err != nil {
			return err
		}
		t, err := s.guestFetched(h)
		if err != nil {
			return err
		}
		s.say("%s, a QEMU guest, fetched a file from host-a: %v", h.Name, t)
		s.claim(t.Right, "TCP from home to "+h.Name, "%v", t)
	}
	return nil
}

// tables shows what the agents know.
func (s *story) tables(ctx context.Context) error {
	for _, command := range []string{"peers", "stations"} {
		out, err := s.farlan(ctx, homeSite, command)
		if err != nil {
			return err
		}
		s.show("farlan "+command, out)
	}
	return nil
}

// killing ends the last far agent suddenly and watches what the others see.
func (s *story) killing(ctx context.Context) error {
	far := s.hosts(func(h Host) bool { return h.Kind == KindFar })
	site := far[len(far)-1].Site
	if err := s.killAgent(ctx, site); err != nil {
		return err
	}
	start := time.Now()
	s.say("%s's agent got SIGKILL", site)
	suspect, err := s.watchState(ctx, site, start, "suspect", "gone")
	if err != nil {
		return err
	}
	s.say("home doubts it after %.2f s", suspect.Seconds())
	s.claim(suspect <= suspectBound, fmt.Sprintf("a dead agent is suspect within %.0f s", suspectBound.Seconds()), "%.2f s", suspect.Seconds())
	gone, err := s.watchState(ctx, site, start, "gone")
	if err != nil {
		return err
	}
	s.say("home gives it up after %.2f s", gone.Seconds())
	s.claim(gone <= goneBound, fmt.Sprintf("a dead agent is gone within %.0f s", goneBound.Seconds()), "%.2f s", gone.Seconds())
	p, err := s.pingFromHome(ctx, s.hosts(isFarMachine)[0], 5)
	if err != nil {
		return err
	}
	s.say("the others are not disturbed: %v", p)
	s.claim(p.Received >= 4, "the others go on without it", "%v", p)
	return nil
}

// watchState waits until home's agent says that a peer is in one of the states
// and returns how long after start that was.
func (s *story) watchState(ctx context.Context, peer string, start time.Time, states ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*goneBound)
	defer cancel()
	err := poll(ctx, 50*time.Millisecond, func() error {
		peers, err := s.peers(ctx, homeSite)
		if err != nil {
			return err
		}
		for _, p := range peers {
			for _, state := range states {
				if p.Name == peer && p.State == state {
					return nil
				}
			}
		}
		return fmt.Errorf("home does not say that %s is %s", peer, states[0])
	})
	return time.Since(start), err
}

// pingFromHome pings a far machine from host-a.
func (s *story) pingFromHome(ctx context.Context, h Host, count int) (Pings, error) {
	home, err := s.host("host-a")
	if err != nil {
		return Pings{}, err
	}
	lease, err := s.leaseAt(h)
	if err != nil {
		return Pings{}, err
	}
	return home.ping(ctx, lease.Address, count, 200*time.Millisecond)
}

// comeback starts the dead agent again and waits for traffic.
func (s *story) comeback(ctx context.Context) error {
	machines := s.hosts(isFarMachine)
	last := machines[len(machines)-1]
	home, err := s.host("host-a")
	if err != nil {
		return err
	}
	lease, err := s.leaseAt(last)
	if err != nil {
		return err
	}
	start := time.Now()
	if err = s.restart(s.process(agentName(last.Site))); err != nil {
		return err
	}
	s.say("%s's agent is started again", last.Site)
	ctx, cancel := context.WithTimeout(ctx, 4*returnBound)
	defer cancel()
	err = home.reach(ctx, lease.Address)
	took := time.Since(start)
	if err == nil {
		s.say("home reaches %s again, %.2f s after that", last.Name, took.Seconds())
	}
	s.claim(err == nil && took <= returnBound, fmt.Sprintf("traffic is back within %.0f s of a restart", returnBound.Seconds()), "%.2f s", took.Seconds())
	return err
}
