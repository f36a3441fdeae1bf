package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// A front is what stands in front of a site of the matrix.
type front struct {
	name string
	nat  string // what --nat says of it
	site string // set when the lab is planned
}

// matrixFronts are what people have: nested is a home router behind another one, and
// carrier one behind a carrier's NAT.
func matrixFronts() []front {
	return []front{
		{"none", "none", ""},
		{"firewall", "firewall", ""},
		{"full-cone", "full-cone", ""},
		{"restricted", "restricted", ""},
		{"port-restr.", "port-restricted", ""},
		{"nested", "port-restricted,behind=outer", ""},
		{"carrier", "port-restricted,behind=isp", ""},
		{"symmetric", "symmetric", ""},
		{"sequential", "symmetric,sequential", ""},
		{"tcp-only", "tcp-only", ""},
	}
}

// A cell is two sites of the matrix, and what is asked of them.
type cell struct {
	a, b   string // names of fronts
	sites  [2]string
	path   string // "direct", "" for any
	within time.Duration
}

// newCell says what is asked of two fronts: a direct path wherever one side's port
// is the same for all, else a member that relays; something in every case.
func newCell(a, b front) cell {
	c := cell{a: a.name, b: b.name, sites: [2]string{a.site, b.site}, path: "direct", within: 2 * time.Second}
	varied := func(f front) bool { return strings.HasPrefix(f.nat, "symmetric") }
	switch {
	case strings.HasPrefix(a.nat, "tcp-only") || strings.HasPrefix(b.nat, "tcp-only"):
		c.path, c.within = "", 5*time.Second
	case varied(a) && varied(b):
		c.path, c.within = "", 3*time.Second
	}
	return c
}

// A matrix is a lab with all sites of a matrix, of whose agents two run at a time,
// and those of home and of site1, by which they join.
type matrix struct {
	*Lab
	cells []cell
}

// newMatrix builds the lab. few asks for the cells that say most.
func newMatrix(t *testing.T, few bool) matrix {
	t.Helper()
	o := testOptions(t)
	texts := []string{"home=none", "site1=none", "outer=full-cone", "isp=port-restricted,cgn"}
	sites := 1
	place := func(f front) front {
		sites++
		f.site = siteName(sites)
		texts = append(texts, f.site+"="+f.nat)
		return f
	}
	var m matrix
	fronts := matrixFronts()
	if few {
		fronts = slices.DeleteFunc(fronts, func(f front) bool {
			return !slices.Contains([]string{"port-restr.", "symmetric", "sequential", "carrier"}, f.name)
		})
	}
	pairs := make([][2]front, len(fronts))
	for i, f := range fronts {
		pairs[i] = [2]front{place(f), place(f)}
	}
	for i, p := range pairs {
		for j, q := range pairs[:i+1] {
			if i == j {
				q[0] = p[1]
			}
			if c := newCell(q[0], p[0]); !few || c.a == "port-restr." {
				m.cells = append(m.cells, c)
			}
		}
	}
	for _, g := range []struct{ name, nat string }{
		{"one port-restr.", "port-restricted,group=g1"},
		{"one port-restr., isolated", "port-restricted,isolated,group=g2"},
		{"one port-restr., hairpin", "port-restricted,isolated,hairpin,group=g3"},
		{"one symmetric, hairpin", "symmetric,isolated,hairpin,group=g4"},
		{"one tcp-only", "tcp-only,isolated,group=g5"},
	} {
		if few {
			break
		}
		a, b := place(front{name: g.name, nat: g.nat}), place(front{name: "the same", nat: g.nat})
		c := newCell(a, b)
		if strings.Contains(g.nat, "isolated") && !strings.Contains(g.nat, "hairpin") {
			c.path, c.within = "", max(c.within, 3*time.Second) // there is no other way
		}
		m.cells = append(m.cells, c)
	}
	if few {
		texts = slices.DeleteFunc(texts, func(s string) bool { return strings.HasPrefix(s, "outer=") })
	}
	o.Sites, o.NATs = sites+1, nats(t, texts...)
	m.Lab = up(t, o)
	if err := m.awaitLeases(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	for i := 2; i <= sites; i++ {
		if err := m.killAgent(t.Context(), siteName(i)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// A meeting is how two agents came together, from when both were up.
type meeting struct {
	path        string // "direct udp", "relayed udp home", …, "not"
	frame, done time.Duration
}

// meet lets two agents that know nobody come together.
func (m matrix) meet(t *testing.T, c cell) meeting {
	t.Helper()
	ctx := within(t, 90*time.Second)
	for _, s := range c.sites {
		if m.fronted(s) {
			output(t, m.Options, "wan", "--forget-nat", s)
		}
		if err := os.Remove(filepath.Join(m.path(s), "peers.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for _, s := range c.sites {
		p, err := m.agentProcess(s)
		if err == nil {
			err = m.restart(p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range c.sites {
		if _, err := m.ready(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, s := range c.sites {
			if err := m.killAgent(context.WithoutCancel(ctx), s); err != nil {
				t.Error(err)
			}
		}
	}()
	began := time.Now()
	r := meeting{path: "not", frame: patience, done: patience}
	lease, err := m.leaseOf(m.mustHost(t, c.sites[1]+"-vm1"))
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		if m.mustHost(t, c.sites[0]+"-vm1").reach(within(t, patience), lease.Address) == nil {
			r.frame = time.Since(began)
		}
	})
	_ = poll(within(t, patience), 30*time.Millisecond, func() error {
		how, err := m.how(ctx, c.sites[0], c.sites[1])
		back, err2 := m.how(ctx, c.sites[1], c.sites[0])
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		if how == "not" || back == "not" || !strings.HasPrefix(how, c.path) || !strings.HasPrefix(back, c.path) {
			r.path = how
			return errors.New(how)
		}
		r.path, r.done = how, time.Since(began)
		return nil
	})
	wait.Wait()
	return r
}

// patience is how long two agents may take at all.
const patience = 15 * time.Second

// fronted says whether a site has a NAT or firewall.
func (m matrix) fronted(site string) bool {
	i := slices.IndexFunc(m.Options.NATs, func(n NAT) bool { return n.Site == site })
	return i >= 0 && m.Options.NATs[i].Kind != NATNone
}

// TestNATMatrix measures how long two agents take to come together, whatever stands
// in front of them, and fails where a goal is missed. With FARLAN_NAT_ROUNDS it tries
// all pairs that often (make bench-nat); without, the hardest ones once, and it is
// patient, as the machine may be busy.
func TestNATMatrix(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("FARLAN_NAT_ROUNDS"))
	m := newMatrix(t, rounds == 0)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IN FRONT OF ONE\tOF THE OTHER\tPATH\tFIRST FRAME\tPATH AFTER\tWORST\tGOAL")
	missed := 0
	for _, c := range m.cells {
		var all []meeting
		for range max(rounds, 1) {
			all = append(all, m.meet(t, c))
		}
		slices.SortFunc(all, func(a, b meeting) int { return cmp.Compare(a.done, b.done) })
		frames := slices.SortedFunc(slices.Values(all), func(a, b meeting) int { return cmp.Compare(a.frame, b.frame) })
		middle, verdict := all[len(all)/2], "met"
		limit := c.within
		if rounds == 0 {
			limit *= 4 // once, on a machine that may be busy
		}
		if middle.done > c.within {
			verdict = "MISSED"
		}
		if middle.done > limit {
			missed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f s\t%.2f s\t%.2f s\t%s %v: %s\n", c.a, c.b, middle.path,
			frames[len(frames)/2].frame.Seconds(), middle.done.Seconds(), all[len(all)-1].done.Seconds(), cmp.Or(c.path, "any"), c.within, verdict)
		t.Logf("%s × %s: %+v", c.a, c.b, all)
	}
	_ = w.Flush()
	fmt.Printf("%smedians of %d\n", table.String(), max(rounds, 1))
	if missed > 0 {
		t.Errorf("of %d goals %d are missed", len(m.cells), missed)
	}
}
