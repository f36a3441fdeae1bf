package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/overlay"
)

// membershipFile holds what makes this agent a member besides the network key.
const membershipFile = "membership.json"

// A membership is what an agent got when it made a network, or joined one.
type membership struct {
	Format     int      `json:"format"`
	Network    string   `json:"network"`              // its fingerprint, at the time
	Name       string   `json:"name,omitempty"`       // of this agent
	Credential []byte   `json:"credential,omitempty"` // as discovery.Credential says; base64
	Bootstrap  []string `json:"bootstrap,omitempty"`  // multiaddrs
}

// membership returns what is known of this agent's membership in a network; the
// zero membership if that is nothing. A file that can't be read, or is of another
// network, is kept aside and reported.
func (s *state) membership(network discovery.Network, now time.Time) (membership, error) {
	path := filepath.Join(s.dir, membershipFile)
	m, err := readMembership(path)
	if errors.Is(err, os.ErrNotExist) {
		return membership{}, nil
	}
	if err == nil && !m.of(network) {
		err = fmt.Errorf("it is of network %s, this one is %s", m.Network, network.ID())
	}
	if err != nil {
		return membership{}, putAside(path, "membership", now, err)
	}
	return m, nil
}

// of says whether m is the membership in a network: a credential outlives the keys
// that the network changes.
func (m membership) of(network discovery.Network) bool {
	if m.Network == network.ID() {
		return true
	}
	c, err := discovery.ParseCredential(m.Credential)
	if err == nil {
		_, err = c.Verify(overlay.Instant(time.Unix(c.NotBefore, 0).UnixNano()), network.Admin(), c.Agent)
	}
	return network.Signed() && (err == nil || errors.Is(err, discovery.ErrIncomplete))
}

func readMembership(path string) (m membership, err error) {
	b, err := readBounded(path)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err == nil && m.Format != 1 {
		err = fmt.Errorf("format %d is unknown", m.Format)
	}
	return m, err
}

// saveMembership replaces what is known of this agent's membership.
func (s *state) saveMembership(m membership) error {
	m.Format = 1
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(s.dir, membershipFile), append(b, '\n'))
}

// credential returns the agent's credential in a network, checked as far as that
// is possible alone: one that lacks a receipt is good. In a simple network it is
// the zero Credential.
func (m membership) credential(network discovery.Network, now overlay.Instant) (discovery.Credential, error) {
	if !network.Signed() {
		return discovery.Credential{}, nil
	}
	ask := hintf("have the admin make a token with 'farlan invite', and give it to 'farlan join' here")
	c, err := discovery.ParseCredential(m.Credential)
	if errors.Is(err, discovery.ErrNoCredential) {
		return c, ask("network %s: its members need a credential, and this agent has none", network.ID())
	}
	if err == nil {
		_, err = c.Verify(now, network.Admin(), c.Agent)
	}
	switch {
	case err == nil, errors.Is(err, discovery.ErrIncomplete):
		return c, nil
	case errors.Is(err, discovery.ErrNotYet):
		return c, hintf("set the clock right, with 'timedatectl set-ntp true' for example")("network %s: %w", network.ID(), err)
	}
	return c, ask("network %s: this agent's %w", network.ID(), err)
}

// apply gives c what the membership knows and no flag says otherwise.
func (m membership) apply(c *config) error {
	if m.Name != "" && !c.Named {
		c.Name = m.Name
	}
	for _, s := range m.Bootstrap {
		seed, err := p2p.ParseSeed(s)
		if err != nil {
			return err
		}
		if len(c.Bootstrap) < maxBootstrap {
			c.Bootstrap = append(c.Bootstrap, seed)
		}
	}
	return nil
}

// covers says what of a configuration an agent with some rights may not do.
func (c *config) covers(rights discovery.Rights) error {
	if len(c.LANs) > 0 && !rights.Has(discovery.RightBridge) {
		return hintf("have the admin give it the right with 'farlan renew --rights %s %s', or leave --lan out", rights|discovery.RightBridge, c.Name)(
			"--lan %s: this agent's credential lacks the right to bridge a LAN (it has: %s)", c.LANs[0].Interface, rights)
	}
	return nil
}

// enter reads this agent's membership and checks that it may do what c says.
func (s *state) enter(c *config, network discovery.Network) (discovery.Credential, error) {
	now := time.Now()
	m, err := s.membership(network, now)
	if err != nil {
		return discovery.Credential{}, hintf("'farlan join' with a token writes it anew")("%w", err)
	}
	own, err := m.credential(network, overlay.Instant(now.UnixNano()))
	if err != nil {
		return discovery.Credential{}, err
	}
	if err = m.apply(c); err != nil {
		return discovery.Credential{}, err
	}
	if network.Signed() {
		err = c.covers(own.Rights)
	}
	return own, err
}

// keepCredential writes down that this agent has another credential.
func (s *state) keepCredential(network discovery.Network, c discovery.Credential) error {
	m, err := s.membership(network, time.Now())
	if err != nil {
		return err
	}
	m.Network, m.Credential = network.ID(), c.Bytes()
	return s.saveMembership(m)
}

// putAside moves a file that can't be used out of the way and says why.
func putAside(path, what string, now time.Time, why error) error {
	aside := fmt.Sprintf("%s.aside-%d", path, now.Unix())
	if rename := os.Rename(path, aside); rename != nil {
		return fmt.Errorf("%s %s: %w, and it can't be moved aside: %w", what, path, why, rename)
	}
	return fmt.Errorf("%s: %w; the file is kept as %s", what, why, aside)
}
