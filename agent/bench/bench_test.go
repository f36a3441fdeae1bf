package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A plan is what one run measures.
type plan struct {
	tunnels []tunnel
	rounds  int
	seconds int
	farlan  string // the program
	out     string // a file for JSON lines, or empty
	dir     string
}

// BenchmarkTunnels measures every tunnel of FARLAN_PEERS in alternating rounds,
// and prints the table and the goals.
func BenchmarkTunnels(b *testing.B) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "NOT ROOT: the tunnels were NOT MEASURED, they need network namespaces")
		b.Skip("needs root for network namespaces")
	}
	p, err := planned()
	if err != nil {
		b.Fatal(err)
	}
	dir, dismiss, err := janitor()
	if err != nil {
		b.Fatal(err)
	}
	defer dismiss()
	p.dir = dir
	b.ResetTimer()
	all := p.measure()
	fmt.Print("\n", machine(p), "\n", all.table(p.tunnels), "\n", all.verdicts()) // the benchmark's own log is cut short
	for _, c := range all {
		if c.Error != "" {
			b.Errorf("round %d: %s: %s", c.Round, c.Tunnel, c.Error)
		}
	}
	for _, r := range []struct{ to, unit string }{{"vxlan", "÷vxlan"}, {"tinc", "÷tinc"}} {
		if s := all.ratio("farlan", r.to, one); s.n > 0 {
			b.ReportMetric(s.median, r.unit)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// planned reads the environment.
func planned() (plan, error) {
	p := plan{
		rounds: number("FARLAN_ROUNDS", 5), seconds: number("FARLAN_SECONDS", 5),
		farlan: os.Getenv("FARLAN_BIN"), out: os.Getenv("FARLAN_BENCH_OUT"), tunnels: tunnels,
	}
	if list := os.Getenv("FARLAN_PEERS"); list != "" {
		var err error
		if p.tunnels, err = choose(list); err != nil {
			return plan{}, err
		}
	}
	needed := slices.ContainsFunc(p.tunnels, func(t tunnel) bool { return t.base() == "farlan" })
	if _, err := os.Stat(p.farlan); needed && (err != nil || !filepath.IsAbs(p.farlan)) {
		return plan{}, fmt.Errorf("FARLAN_BIN=%q must be the absolute path of the program: use 'make bench'", p.farlan)
	}
	return p, nil
}

// choose returns the tunnels of a comma-separated list, in the table's order.
func choose(list string) ([]tunnel, error) {
	wanted := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	var chosen []tunnel
	var known []string
	for _, t := range tunnels {
		known = append(known, t.name)
		if slices.Contains(wanted, t.name) {
			chosen = append(chosen, t)
		}
	}
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("FARLAN_PEERS: there is no %q, only %s", w, strings.Join(known, ","))
		}
	}
	return chosen, nil
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// measure goes through all cells. A cell that fails is told and kept, so that
// a peer's bad day does not cost the others their table.
func (p plan) measure() results {
	var all results
	for round := 1; round <= p.rounds; round++ {
		order := slices.Clone(p.tunnels)
		if round%2 == 0 {
			slices.Reverse(order)
		}
		for _, t := range order {
			c := cell{Round: round, Tunnel: t.name}
			v, err := p.cell(t, len(all))
			if err != nil {
				c.Error = err.Error()
			} else {
				c.Values = v
			}
			all = append(all, c)
			fmt.Fprintf(os.Stderr, "%s round %d/%d, cell %d/%d: %s\n", time.Now().Format(time.TimeOnly),
				round, p.rounds, len(all), p.rounds*len(order), c)
			if err := p.record(c); err != nil {
				fmt.Fprintf(os.Stderr, "FARLAN_BENCH_OUT: %v\n", err)
			}
		}
	}
	return all
}

// record adds a cell, of whatever benchmark, to the file of JSON lines.
func (p plan) record(c any) error {
	if p.out == "" {
		return nil
	}
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(p.out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

// cell measures one tunnel between two fresh hosts.
func (p plan) cell(t tunnel, number int) (sample, error) {
	h, err := newHosts(p, number)
	defer h.close()
	if err != nil {
		return nil, err
	}
	if t.plain() {
		if err := h.offloadsOff(); err != nil {
			return nil, err
		}
	}
	if err := t.start(h); err != nil {
		return nil, fmt.Errorf("start: %w%s", err, h.lastWords())
	}
	v, err := h.measure(t.addr, p.seconds)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, h.lastWords())
	}
	return v, nil
}
