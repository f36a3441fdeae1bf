package lab

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// TestCircuitsPlan: the provider has a place in the wide area that all reach, and no other site's.
func TestCircuitsPlan(t *testing.T) {
	o := DefaultOptions("x")
	for _, c := range []struct {
		nats []string
		at   string
	}{{nil, "10.99.255.1"}, {[]string{"site1=symmetric"}, "30.99.255.1"}} {
		o.Circuits, o.NATs = true, nats(t, c.nats...)
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		w := wideArea(o, plan(o))
		var found []string
		for _, s := range w.Sites {
			for _, p := range s.Prefixes {
				if p.Contains(netip.MustParseAddr(c.at)) {
					found = append(found, s.Name)
				}
			}
		}
		if len(w.Sites) != o.Sites+1 || len(found) != 1 || found[0] != providerSite {
			t.Errorf("%v is at %v of %+v", c.at, found, w.Sites)
		}
	}
	o.Circuits, o.NATs = false, nil
	if w := wideArea(o, plan(o)); len(w.Sites) != o.Sites {
		t.Errorf("nobody asked for circuits: %+v", w.Sites)
	}
	o.Circuits, o.IP6 = true, ip6s(t, "site1=only", "site2")
	if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "site1 has no IPv4") {
		t.Errorf("a site without IPv4: %v", err)
	}
}

// TestCircuitsUsage: what can't be asked of a lab says what to do.
func TestCircuitsUsage(t *testing.T) {
	o := DefaultOptions("x")
	o.Dir = filepath.Join(t.TempDir(), "lab")
	l, err := create(o)
	if err != nil {
		t.Fatal(err)
	}
	l.release()
	run := func(args ...string) error {
		c := Command()
		c.SetArgs(append([]string{"circuits", "--name", o.Name, "--dir", o.Dir}, args...))
		c.SilenceErrors, c.SilenceUsage = true, true
		return c.ExecuteContext(t.Context())
	}
	var hint interface{ Hint() string }
	if err := run(); !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--circuits") {
		t.Errorf("a lab without circuits: %v", err)
	}
	l.Options.Circuits = true
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	var usage interface{ ExitCode() int }
	for _, args := range [][]string{{"fault", "none", "on"}, {"fault", "plane-down", "maybe"}} {
		if err := run(args...); !errors.As(err, &usage) || usage.ExitCode() != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, args := range [][]string{{"break"}, {"burn"}, {"fault", "plane-down"}} {
		if err := run(args...); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	if err := run("fault", "plane-down", "on"); !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "restart") {
		t.Errorf("a provider that doesn't run: %v", err)
	}
}
