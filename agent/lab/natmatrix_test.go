package lab

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// A front is what stands in front of a site of the matrix.
type front struct {
	name string
	nat  string // what --nat says of it, "" nothing
	ip6  string // what --ip6 says of it, "" nothing
}

// matrixFronts are what people have. A cgn is a home router behind a carrier's NAT,
// each site's its own.
var matrixFronts = []front{
	{name: "none", nat: "none"},
	{name: "firewall", nat: "firewall"},
	{name: "full-cone", nat: "full-cone"},
	{name: "restricted", nat: "restricted"},
	{name: "port-restricted", nat: "port-restricted"},
	{name: "cgn", nat: "port-restricted,behind=CARRIER"},
	{name: "symmetric", nat: "symmetric"},
	{name: "sequential", nat: "symmetric,sequential"},
	{name: "tcp-only", nat: "tcp-only"},
}

// sameSite are pairs behind one NAT. Isolated hosts don't reach each other but by the
// NAT, which the hairpin lets them.
var sameSite = []front{
	{name: "port-restricted", nat: "port-restricted"},
	{name: "symmetric", nat: "symmetric"},
	{name: "tcp-only", nat: "tcp-only"},
	{name: "port-restricted, isolated, hairpin", nat: "port-restricted,isolated,hairpin"},
	{name: "port-restricted, isolated", nat: "port-restricted,isolated"},
	{name: "symmetric, isolated, hairpin", nat: "symmetric,isolated,hairpin"},
	{name: "cgn", nat: "port-restricted,behind=CARRIER"},
}

// A cell is two sites of the matrix, and what is asked of them.
type cell struct {
	a, b   string // what stands in front of them
	sites  [2]string
	path   string // "direct udp", "" for any
	within time.Duration
}

// newCell says what is asked of two fronts: a direct path wherever one side's port
// is the same for all, else a member that relays; something in every case.
func newCell(a, b front) cell {
	c := cell{a: a.name, b: b.name, path: "direct udp", within: 2 * time.Second}
	varied := func(f front) bool { return strings.HasPrefix(f.nat, "symmetric") }
	switch {
	case strings.HasPrefix(a.nat, "tcp-only") || strings.HasPrefix(b.nat, "tcp-only"):
		c.path, c.within = "", 5*time.Second
	case varied(a) && varied(b), a.ip6 == "only" && b.ip6 == "", b.ip6 == "only" && a.ip6 == "":
		c.path, c.within = "", 3*time.Second
	}
	return c
}

// A matrixPlan is the sites of a matrix, which are numbered as they are added: site1
// and site2 are in the open and always there.
type matrixPlan struct {
	texts []string // for --nat
	ip6   []string // for --ip6
	sites int
	gates int // carriers, and NATs of more than one site
	cells []cell
	keep  func(cell) bool
}

// newMatrixPlan returns a plan with no cells, for those that keep wants.
func newMatrixPlan(keep func(cell) bool) *matrixPlan {
	return &matrixPlan{keep: keep, texts: []string{"home=none", "site1=none", "site2=none"}, ip6: []string{"site1"}, sites: 2}
}

// gate names one more NAT of nobody in particular.
func (m *matrixPlan) gate() string {
	m.gates++
	return fmt.Sprintf("gate%d", m.gates)
}

// carrier returns what --nat says of a front, its carrier's NAT being one of its own
// with options.
func (m *matrixPlan) carrier(f front, options string) string {
	if !strings.Contains(f.nat, "CARRIER") {
		return f.nat
	}
	g := m.gate()
	m.texts = append(m.texts, g+"=port-restricted,cgn"+options)
	return strings.Replace(f.nat, "CARRIER", g, 1)
}

// site adds a site behind a NAT and returns its name.
func (m *matrixPlan) site(nat, ip6 string) string {
	m.sites++
	name := siteName(m.sites)
	if nat != "" {
		m.texts = append(m.texts, name+"="+nat)
	}
	switch ip6 {
	case "only":
		m.ip6 = append(m.ip6, name+"=only")
	case "too":
		m.ip6 = append(m.ip6, name)
	}
	return name
}

// pairs adds the cells of all pairs of fronts, at two sites each.
func (m *matrixPlan) pairs(fronts []front) {
	sites := make(map[string]string) // of a front, by its name and which of two it is
	at := func(f front, which string) string {
		if sites[f.name+which] == "" {
			sites[f.name+which] = m.site(m.carrier(f, ""), f.ip6)
		}
		return sites[f.name+which]
	}
	for i, b := range fronts {
		for _, a := range fronts[:i+1] {
			if c := newCell(a, b); m.keep(c) {
				c.sites = [2]string{at(a, ""), at(b, "")}
				if a.name == b.name {
					c.sites[1] = at(b, " too")
				}
				m.cells = append(m.cells, c)
			}
		}
	}
}

// together adds the cells of pairs behind one NAT.
func (m *matrixPlan) together() {
	for _, f := range sameSite {
		c := newCell(f, f)
		c.a, c.b = f.name, "the same one"
		switch {
		case !strings.Contains(f.nat, "isolated"): // on their own network
			c.path, c.within = "direct udp", 2*time.Second
		case !strings.Contains(f.nat, "hairpin"): // there is no other way
			c.path, c.within = "", 3*time.Second
		}
		if !m.keep(c) {
			continue
		}
		nat := m.carrier(f, "") + ",group=" + m.gate()
		c.sites = [2]string{m.site(nat, ""), m.site(nat, "")}
		m.cells = append(m.cells, c)
	}
	// Two homes of one carrier, whose addresses there nobody can tell them.
	for _, options := range []string{",hairpin", ""} {
		home := front{name: "cgn", nat: "port-restricted,behind="}
		c := newCell(home, home)
		c.a, c.b = "home of a cgn"+options, "another home of it"
		if options == "" {
			c.path, c.within = "", 3*time.Second
		}
		if !m.keep(c) {
			continue
		}
		g := m.gate()
		m.texts = append(m.texts, g+"=port-restricted,cgn"+options)
		c.sites = [2]string{m.site(home.nat+g, ""), m.site(home.nat+g, "")}
		m.cells = append(m.cells, c)
	}
}

// families adds the cells of sites that have IPv6.
func (m *matrixPlan) families() {
	only, both := front{name: "IPv6 only", ip6: "only"}, front{name: "IPv4 and IPv6", ip6: "too"}
	four := front{name: "port-restricted, IPv4 only", nat: "port-restricted"}
	keep := m.keep
	m.keep = func(c cell) bool { return c.a != c.b && keep(c) }
	m.pairs([]front{only, both})
	m.pairs([]front{four, only})
	m.keep = keep
}

// fewCells are those that say most, for a run of some seconds.
func fewCells(c cell) bool {
	return slices.Contains([]string{
		"port-restricted × port-restricted", "port-restricted × symmetric", "port-restricted × sequential",
		"cgn × symmetric", "symmetric × symmetric", "port-restricted × tcp-only",
	}, c.a+" × "+c.b)
}

// A spread is the median of some times, the least and the most.
type spread struct{ middle, least, most time.Duration }

func spreadOf(all []meeting, of func(meeting) time.Duration) spread {
	var d []time.Duration
	for _, m := range all {
		d = append(d, of(m))
	}
	slices.Sort(d)
	return spread{d[len(d)/2], d[0], d[len(d)-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.middle.Seconds(), s.least.Seconds(), s.most.Seconds())
}

// A verdict is what came of a cell.
type verdict struct {
	paths       []string // that were taken
	frame, path spread
	wrong       bool // not reached, or by way of others without need
	late        bool
}

func (c cell) judge(all []meeting) verdict {
	v := verdict{
		frame: spreadOf(all, func(m meeting) time.Duration { return m.frame }),
		path:  spreadOf(all, func(m meeting) time.Duration { return m.path }),
	}
	for _, m := range all {
		v.wrong = v.wrong || !m.reached || !m.framed
		if !slices.Contains(v.paths, m.how) {
			v.paths = append(v.paths, m.how)
		}
	}
	v.late = v.frame.middle > c.within || c.path != "" && v.path.middle > c.within
	return v
}

// row returns the row of the table, tabs between its fields.
func (c cell) row(v verdict) string {
	says := "met"
	switch {
	case v.wrong:
		says = "WRONG"
	case v.late:
		says = "MISSED"
	}
	return fmt.Sprintf("%s\t%s\t%s\t%v\t%v\t%s ≤ %v\t%s", c.a, c.b, strings.Join(v.paths, " or "), v.frame, v.path, cmp.Or(c.path, "any"), c.within, says)
}

const matrixHead = "IN FRONT OF ONE\tOF THE OTHER\tPATH\tFIRST FRAME, s\tTHAT PATH, s\tGOAL\t"

// TestNATMatrix measures how long two agents take to come together, whatever stands in
// front of them, from when both answer their own users, which is before they have joined
// anybody: until a ping from a station of the one has come back from one of the other
// (they are sent 20 times a second), and until both agents say that the path is the one
// that is wanted. With FARLAN_NAT_ROUNDS it tries all cells that often (make bench-nat);
// without, some once; with FARLAN_NAT_ONLY those that have that in their names. It fails
// where nothing is reached, or not directly where that can be; goals of time that are
// missed are counted, as they may be a busy machine's fault.
func TestNATMatrix(t *testing.T) {
	t.Parallel()
	rounds, _ := strconv.Atoi(os.Getenv("FARLAN_NAT_ROUNDS"))
	only := os.Getenv("FARLAN_NAT_ONLY")
	plan := newMatrixPlan(func(c cell) bool { return strings.Contains(c.a+" × "+c.b, only) })
	if rounds == 0 {
		plan.keep = fewCells
	}
	plan.pairs(matrixFronts)
	plan.together()
	plan.families()
	if len(plan.cells) == 0 {
		t.Fatalf("no two are %q", only)
	}
	m := newMatrix(t, plan)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, matrixHead)
	began, missed := time.Now(), 0
	for i, c := range plan.cells {
		var all []meeting
		for range max(rounds, 1) {
			all = append(all, m.meet(t, c))
		}
		v := c.judge(all)
		if v.wrong {
			t.Errorf("%s × %s: %+v", c.a, c.b, all)
		}
		if v.wrong {
			m.sayLogs(t, c)
		}
		if v.late {
			missed++
		}
		fmt.Fprintln(w, c.row(v))
		progress(os.Stdout, i+1, len(plan.cells), time.Since(began), c.row(v))
	}
	_ = w.Flush()
	fmt.Printf("%smedians (least–most) of %d; goals of time missed: %d\n", table.String(), max(rounds, 1), missed)
}

func progress(w io.Writer, done, of int, since time.Duration, row string) {
	fmt.Fprintf(w, "%2d of %d, %3.0f s: %s\n", done, of, since.Seconds(), strings.ReplaceAll(row, "\t", "  "))
}
