package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A matrix is a lab with all sites of a matrix, of whose agents four run at a time:
// those of site1 and site2, which are in the open and by the first of which others
// join, and the two that are to meet. Stations have fixed addresses, IP and MAC, so
// that nothing but the agents takes time.
type matrix struct {
	*Lab
	seed string
}

// patience is how long two agents may take at all.
const patience = 20 * time.Second

// newMatrix builds the lab of a plan.
func newMatrix(t *testing.T, plan *matrixPlan) matrix {
	t.Helper()
	o := testOptions(t)
	o.Sites, o.NATs, o.IP6 = plan.sites+1, nats(t, plan.texts...), ip6s(t, plan.ip6...)
	o.LogLevel = "debug"
	if err := checkMachine(); err != nil {
		t.Fatal(err)
	}
	l, err := create(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.release()
		if _, err := Down(context.Background(), o.Name, o.Dir); err != nil {
			t.Error(err)
		}
	})
	ctx := within(t, 2*time.Minute)
	m := matrix{Lab: l}
	err = l.buildNetwork(ctx)
	if err == nil {
		err = m.fixStations()
	}
	if err == nil {
		_, err = l.makeKey(ctx)
	}
	if err == nil {
		m.seed, err = l.startFirst(ctx)
	}
	if err == nil {
		err = m.start(ctx, "site2")
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// station returns the address of a site's station.
func station(site int) netip.Addr { return lanAddress(byte(100 + site)) }

// fixStations gives the far sites' machines their addresses, and tells them those of
// the others.
func (m matrix) fixStations() error {
	vms := m.hosts(isFarMachine)
	for i, h := range vms {
		s, err := openSpace(h.Namespace)
		if err != nil {
			return err
		}
		err = s.address("eth0", netip.PrefixFrom(station(i+1), lan.Bits()))
		for j, other := range vms {
			if err == nil && i != j {
				err = s.neighbour("eth0", station(j+1), other.MAC)
			}
		}
		s.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// neighbour tells the interface name the MAC address of an IP address, for good.
func (s *space) neighbour(name string, a netip.Addr, mac string) error {
	link, err := s.link(name)
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	n := netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: hw}
	if err := s.nl.NeighSet(&n); err != nil {
		return fmt.Errorf("%s: neighbour %v on %s: %w", s.name, a, name, err)
	}
	return nil
}

// start starts agents and waits until they answer.
func (m matrix) start(ctx context.Context, sites ...string) error {
	for _, site := range sites {
		h, err := m.host(site)
		seed := ""
		if err == nil {
			seed, err = m.seedOf(ctx, h, m.seed)
		}
		if err == nil {
			_, err = m.startAgent(h, seed)
		}
		if err != nil {
			return err
		}
	}
	for _, site := range sites {
		if err := poll(ctx, 5*time.Millisecond, func() error { return m.get(site, "/status", new(agentStatus)) }); err != nil {
			return err
		}
	}
	return nil
}

// get asks a site's agent, as the program does, but takes no time for a process.
func (m matrix) get(site, path string, answer any) error {
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", m.socket(site))
		},
	}}
	r, err := c.Get("http://farlan" + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return json.NewDecoder(r.Body).Decode(answer)
}

// A meeting is how two agents came together, from when both were up.
type meeting struct {
	how             string // "direct udp", "relayed udp site1", …, "not"
	frame, path     time.Duration
	framed, reached bool // a frame came back; both took a path that is wanted
}

// meet lets two agents that know nobody come together, and then leave.
func (m matrix) meet(t *testing.T, c cell) meeting {
	t.Helper()
	ctx := within(t, 2*patience)
	plan, err := planNATs(m.Options)
	err = errors.Join(err, m.swap(c.sites))
	for _, s := range c.sites {
		_ = os.Truncate(m.path(agentName(s)+".log"), 0) // what it said before is history
		for i := plan.index(plan.behind[s]); i >= 0 && err == nil; i = plan.index(plan.gates[i].Behind) {
			_, err = ask(ctx, m.wanSocket(), controlRequest{ForgetNAT: plan.gates[i].Name})
		}
		if known := os.Remove(filepath.Join(m.path(s), "peers.json")); !errors.Is(known, os.ErrNotExist) {
			err = errors.Join(err, known)
		}
	}
	if err == nil {
		err = m.start(ctx, c.sites[:]...)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, s := range c.sites {
			if err := m.stopAgent(context.WithoutCancel(ctx), s); err != nil {
				t.Error(err)
			}
		}
	}()
	began := time.Now()
	r := meeting{how: "not", frame: patience, path: patience}
	ctx = within(t, patience)
	var wait sync.WaitGroup
	wait.Go(func() {
		if m.pingUntil(ctx, c.sites) == nil {
			r.framed, r.frame = true, time.Since(began)
		}
	})
	r.reached = poll(ctx, 10*time.Millisecond, func() (err error) {
		if r.how, err = m.both(c); err == nil {
			r.path = time.Since(began)
		}
		return err
	}) == nil
	wait.Wait()
	return r
}

// swap lets the agents of two sites, which don't run, be each other from now on: the one
// with the smaller id is the one to begin with the other.
func (m matrix) swap(sites [2]string) error {
	a, b, aside := m.path(sites[0]), m.path(sites[1]), m.path("aside")
	for _, move := range [][2]string{{a, aside}, {b, a}, {aside, b}} {
		if err := os.Rename(move[0], move[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// pingUntil pings from the station of one site that of the other, 20 times a second,
// until one comes back.
func (m matrix) pingUntil(ctx context.Context, sites [2]string) error {
	from, err := m.host(sites[0] + "-vm1")
	if err != nil {
		return err
	}
	to := 0
	if _, err = fmt.Sscanf(sites[1], "site%d", &to); err == nil {
		_, err = from.run(ctx, "ping", "-q", "-n", "-w", "30", "-c", "1", "-i", "0.05", station(to).String())
	}
	return err
}

// both says how the sites of a cell reach each other; it is an error if one doesn't,
// or not by a path that is wanted.
func (m matrix) both(c cell) (how string, err error) {
	for _, s := range [][2]string{{c.sites[1], c.sites[0]}, c.sites} {
		var p struct {
			Peers []agentPeer `json:"peers"`
		}
		how = "not"
		if err = m.get(s[0], "/peers", &p); err != nil {
			return how, err
		}
		for _, p := range p.Peers {
			if p.Name == s[1] && p.State == "up" {
				how = strings.TrimSpace(p.Path + " " + p.Transport + " " + strings.Join(p.Via, ","))
			}
		}
		if how == "not" || !strings.HasPrefix(how, c.path) {
			return how, errors.New(how)
		}
	}
	return how, nil
}

// sayLogs shows what the agents of a cell have said at last.
func (m matrix) sayLogs(t *testing.T, c cell) {
	for _, s := range c.sites {
		said, err := os.ReadFile(m.process(agentName(s)).Log)
		t.Logf("%s, %v:\n%s", s, err, said[max(len(said)-8000, 0):])
	}
}
