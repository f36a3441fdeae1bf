package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// agentStatus is what the lab reads of `farlan status --json`.
type agentStatus struct {
	State  string   `json:"state"` // starting, ready, degraded
	Listen []string `json:"listen"`
	Peers  int      `json:"peers"`
}

// agentPeer is what the lab reads of each peer in `farlan peers --json`.
type agentPeer struct {
	Name  string `json:"name"`
	State string `json:"state"` // up, suspect, gone
	Path  string `json:"path"`  // self, direct, relayed, none

	Transport string   `json:"transport"` // udp, stream
	Via       []string `json:"via"`
}

// farlan runs a client command of the farlan program against a site's agent and
// returns its standard output; an error holds what it said.
func (l *Lab) farlan(ctx context.Context, site string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, l.Options.Binary, args...)
	cmd.Env = append(cleanEnviron(), "FARLAN_SOCKET="+l.socket(site))
	var out, notes bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &notes
	if err := cmd.Run(); err != nil {
		said, _, _ := strings.Cut(notes.String(), "\n")
		return nil, fmt.Errorf("%s: farlan %s: %w: %s", site, strings.Join(args, " "), err, strings.TrimPrefix(said, "farlan: "))
	}
	return out.Bytes(), nil
}

// status asks a site's agent how it is.
func (l *Lab) status(ctx context.Context, site string) (agentStatus, error) {
	var s agentStatus
	b, err := l.farlan(ctx, site, "status", "--json")
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// peers asks a site's agent who is there.
func (l *Lab) peers(ctx context.Context, site string) ([]agentPeer, error) {
	var p struct {
		Peers []agentPeer `json:"peers"`
	}
	b, err := l.farlan(ctx, site, "peers", "--json")
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	return p.Peers, err
}

// makeKey makes the lab's network key and returns its fingerprint.
func (l *Lab) makeKey(ctx context.Context) (string, error) {
	if _, err := l.farlan(ctx, homeSite, "key", "new", l.path("network.key")); err != nil {
		return "", err
	}
	id, err := l.farlan(ctx, homeSite, "key", "id", l.path("network.key"))
	return strings.TrimSpace(string(id)), err
}

// agentName returns the name of a site's agent process.
func agentName(site string) string { return "agent-" + site }

// startAgent starts a site's agent; bootstrap is "" for the first.
func (l *Lab) startAgent(h Host, bootstrap string) (*Process, error) {
	args := []string{
		l.Options.Binary, "up", "--config", os.DevNull, "--name", h.Site,
		"--key-file", l.path("network.key"), "--state-dir", l.path(h.Site),
		"--socket", l.socket(h.Site), "--log-level", l.Options.LogLevel,
	}
	if h.Kind == KindProxy {
		args = append(args, "--lan", "eth0")
	} else {
		args = append(args, "--tap", "farlan0,bridge="+h.bridge())
	}
	if bootstrap != "" {
		args = append(args, "--bootstrap", bootstrap)
	}
	if l.Options.Circuits {
		args = append(args, "--reserve", "tc", "--reserve", "dscp", "--reserve", "nsi="+l.nsiPath(h.Site))
	}
	return l.run(h, Process{Name: agentName(h.Site), Args: args})
}

// ready waits until a site's agent is, and returns its status.
func (l *Lab) ready(ctx context.Context, site string) (agentStatus, error) {
	p := l.process(agentName(site))
	var s agentStatus
	err := l.await(ctx, p, func() (err error) {
		s, err = l.status(ctx, site)
		if err == nil && s.State == "starting" {
			err = errors.New("it is starting")
		}
		return err
	})
	return s, err
}

// startFirst starts the first agent and returns the one address that the others
// get to know.
func (l *Lab) startFirst(ctx context.Context) (string, error) {
	h, address, err := l.first()
	if err != nil {
		return "", err
	}
	if _, err = l.startAgent(h, ""); err != nil {
		return "", err
	}
	s, err := l.ready(ctx, h.Site)
	if err != nil {
		return "", err
	}
	for _, a := range s.Listen {
		if ip, ok := addressIn(a); ok && ip == address {
			return a, nil
		}
	}
	return "", fmt.Errorf("%s's agent does not say that it listens on %v, only on %v", h.Site, address, s.Listen)
}

// first returns the host whose agent the others join by, and where: home, or in
// a lab with NATs a far site with a public address if there is one, or in one with
// IPv6 a far site that has both.
func (l *Lab) first() (Host, netip.Addr, error) {
	nats, err := planNATs(l.Options)
	if err != nil {
		return Host{}, netip.Addr{}, err
	}
	for _, h := range l.Hosts {
		if h.WAN.IsValid() && h.WAN6.IsValid() {
			return h, h.WAN, nil
		}
	}
	if len(l.Options.NATs) > 0 {
		for _, h := range l.Hosts {
			if h.Kind == KindFar && nats.behind[h.Site] == "" && h.WAN.IsValid() {
				return h, h.WAN, nil
			}
		}
	}
	proxy, err := l.host("home-proxy")
	return proxy, proxy.Address, err
}

// addressIn returns the IP address that a multiaddr begins with.
func addressIn(multiaddr string) (netip.Addr, bool) {
	parts := strings.SplitN(multiaddr, "/", 4)
	if len(parts) < 3 || parts[0] != "" || parts[1] != "ip4" && parts[1] != "ip6" {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(parts[2])
	return ip, err == nil
}

// startOthers starts the agents that were not started yet and waits until all
// are ready.
func (l *Lab) startOthers(ctx context.Context, bootstrap string) error {
	others := l.hosts(func(h Host) bool { return h.hasAgent() && l.process(agentName(h.Site)) == nil })
	for _, h := range others {
		seed, err := l.seedOf(ctx, h, bootstrap)
		if err == nil {
			_, err = l.startAgent(h, seed)
		}
		if err != nil {
			return err
		}
	}
	for _, h := range others {
		if _, err := l.ready(ctx, h.Site); err != nil {
			return err
		}
	}
	return nil
}

// agentProcess returns a site's agent process.
func (l *Lab) agentProcess(site string) (*Process, error) {
	if p := l.process(agentName(site)); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("lab %s has no agent %q", l.Options.Name, site)
}

// stopGrace is how long an agent may take to leave in order.
const stopGrace = 5 * time.Second

// stopAgent asks a site's agent to leave in order; killAgent ends it with no
// chance to say so. Both return when it has ended.
func (l *Lab) stopAgent(ctx context.Context, site string) error {
	p, err := l.agentProcess(site)
	if err != nil {
		return err
	}
	return endAll(ctx, stopGrace, p)
}

func (l *Lab) killAgent(ctx context.Context, site string) error {
	p, err := l.agentProcess(site)
	if err != nil {
		return err
	}
	return signalAll(ctx, unix.SIGKILL, killWait, []*Process{p})
}

// restartAgent starts a site's agent again with the flags that it had, and
// returns when it is ready.
func (l *Lab) restartAgent(ctx context.Context, site string) error {
	p, err := l.agentProcess(site)
	if err != nil {
		return err
	}
	if p.alive() {
		return fmt.Errorf("the agent of %s runs already (process %d)", site, p.PID)
	}
	if err = l.restart(p); err != nil {
		return err
	}
	_, err = l.ready(ctx, site)
	return err
}
