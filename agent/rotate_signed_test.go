package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// The admin of a signed network changes its key: members go on by their credentials,
// also after a restart, and who was revoked before doesn't come back with the new key,
// not even to those who know only that.
func TestKeyRotateSigned(t *testing.T) {
	t.Parallel()
	const overlap = 15 * time.Second
	a := found(t, "", "a", "--beacon", "off")
	b := join(t, a, "", "b").launch("--beacon", "off")
	x := join(t, a, "", "x").launch("--beacon", "off")
	key := func(d *process) string { return filepath.Join(d.dir, "network.key") }
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), x.sees(3)) })
	a.must("", "revoke", "x")
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })

	if _, err := b.farlan("", "key", "rotate"); err == nil || !strings.Contains(err.Error(), "admin key") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("without the admin key: %v", err)
	}
	if _, err := a.farlan("", "key", "rotate", "--overlap", "1s"); err == nil || !strings.Contains(err.Error(), "exit status 2") {
		t.Errorf("too short: %v", err)
	}
	before, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var v rotationView
	if err := json.Unmarshal([]byte(a.must("", "key", "rotate", "--overlap", overlap.String(), "--json")), &v); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d agents go by the new key after %v", v.Have, v.Agents, time.Since(began))
	if v.Have != 2 || v.Agents != 2 || v.From != before.Network || v.To == v.From {
		t.Errorf("rotated: %+v", v)
	}
	if err := errors.Join(holds(key(a), v.To), holds(key(b), v.To)); err != nil {
		t.Error(err)
	}
	if _, err := a.farlan("", "key", "rotate"); err == nil || !strings.Contains(err.Error(), "already changes its key") {
		t.Errorf("a second change at once: %v", err)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.bootstrap()
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	eventually(t, 2*overlap, func() error {
		for _, d := range []*process{a, b} {
			if st, err := d.status(); err != nil || st.Rotation != nil || st.Network != v.To {
				return fmt.Errorf("%s: %+v, %w", d.name, st.Rotation, err)
			}
		}
		return nil
	})
	t.Logf("over after %v", time.Since(began))

	c := join(t, a, "", "c").launch("--beacon", "off")
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), c.sees(3)) })
	eventually(t, 10*time.Second, func() error {
		var known membersView
		if err := c.client().call(context.Background(), http.MethodGet, "/members", nil, &known); err != nil || known.Version == 0 {
			return fmt.Errorf("c doesn't know what the admin said: %w", err)
		}
		return nil
	})
	x.kill()
	text, err := os.ReadFile(key(a))
	if err == nil {
		err = os.WriteFile(key(x), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	x.args = append(x.args, "--bootstrap", c.bootstrap())
	x.start()
	x.bootstrap()
	eventually(t, 15*time.Second, func() error {
		if h := x.check("members"); h.OK || !strings.Contains(h.Detail, "credential") {
			return fmt.Errorf("x's health: %+v", h)
		}
		return nil
	})
	if err := errors.Join(a.sees(3), b.sees(3), c.sees(3)); err != nil {
		t.Error(err)
	}
}

// A membership outlives the network's keys, and no admin.
func TestMembershipOutlivesKeys(t *testing.T) {
	var admins [2]discovery.AdminKey
	for i := range admins {
		var err error
		if admins[i], err = discovery.NewAdminKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	c, err := discovery.IssueCredential(admins[0], overlay.AgentID{1}, discovery.AllRights, 100, 200) // long over
	if err != nil {
		t.Fatal(err)
	}
	old := discovery.NewNetwork(discovery.NetworkKey{1}, admins[0].Public())
	m := membership{Network: old.ID(), Credential: c.Bytes()}
	for network, want := range map[discovery.Network]bool{
		old: true,
		discovery.NewNetwork(discovery.NetworkKey{2}, admins[0].Public()):      true,
		discovery.NewNetwork(discovery.NetworkKey{2}, admins[1].Public()):      false,
		discovery.NewNetwork(discovery.NetworkKey{1}, discovery.AdminPublic{}): false,
	} {
		if got := m.of(network); got != want {
			t.Errorf("of %v: %v", network, got)
		}
	}
	m.Credential = nil
	if m.of(discovery.NewNetwork(discovery.NetworkKey{2}, admins[0].Public())) {
		t.Error("without a credential it is of another network")
	}
}

// No order but the admin's for this network changes the key of a signed one.
func TestOrdersOfOthers(t *testing.T) {
	admin, err := discovery.NewAdminKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := discovery.NewAdminKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := wallClock()
	n := reachNode(t)
	network := discovery.NewNetwork(discovery.NetworkKey{1}, admin.Public())
	n.keys.ring = discovery.NewKeyring(network)
	foreign, err := discovery.SignAdminRotation(now, other, discovery.NewNetwork(discovery.NetworkKey{1}, other.Public()), 1, time.Hour, discovery.NetworkKey{2})
	if err != nil {
		t.Fatal(err)
	}
	statement, err := discovery.SignStatement(now, admin, network, 0, discovery.Statement{})
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"another admin's": foreign.Bytes(), "a statement": statement.Bytes(), "nothing": nil, "noise": []byte("noise")} {
		if _, err := n.rotateByAdmin(n.now(), adminOrders{Rotation: raw}); !errors.Is(err, errOrders) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n.keys.ring.Current() != network {
		t.Error("the key has changed")
	}
}
