package bench

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A cell is what one tunnel did in one round.
type cell struct {
	Round  int    `json:"round"`
	Tunnel string `json:"tunnel"`
	Values sample `json:"values,omitempty"`
	Error  string `json:"error,omitempty"`
}

// String is a line of progress.
func (c cell) String() string {
	if c.Error != "" {
		return fmt.Sprintf("%s FAILED: %s", c.Tunnel, c.Error)
	}
	v := c.Values
	line := fmt.Sprintf("%s: %.0f Mbit/s, four %.0f, reverse %.0f, %.0f µs, 64 B %.0f k/s, machine %.2f s/GB",
		c.Tunnel, v[one], v[four], v[reverse], v[rtt50], v[small], v[machineCPU])
	if cpu, ok := v[daemonsCPU]; ok {
		line += fmt.Sprintf(", daemons %.2f s/GB, %.0f MB", cpu, v[resident])
	}
	return line
}

// results are the cells of a run.
type results []cell

// A spread is a median with the least and the most. It is of n values: with
// none, nothing was measured.
type spread struct {
	n                  int
	median, least, top float64
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	middle := s[len(s)/2]
	if len(s)%2 == 0 {
		middle = (s[len(s)/2-1] + middle) / 2
	}
	return spread{len(s), middle, s[0], s[len(s)-1]}
}

// text is "median (min–max)" with the given number of decimals.
func (s spread) text(decimals int) string {
	switch s.n {
	case 0:
		return "—"
	case 1:
		return fmt.Sprintf("%.*f", decimals, s.median)
	}
	return fmt.Sprintf("%.*f (%.*f–%.*f)", decimals, s.median, decimals, s.least, decimals, s.top)
}

// of is a tunnel's spread.
func (all results) of(tunnel string, m metric) spread {
	var values []float64
	for _, c := range all {
		if v, ok := c.Values[m]; ok && c.Tunnel == tunnel {
			values = append(values, v)
		}
	}
	return spreadOf(values)
}

// pairs joins what two tunnels measured in the same round: both saw the machine
// in about the same state.
func (all results) pairs(tunnel string, m metric, other string, n metric, join func(a, b float64) float64) spread {
	var values []float64
	for _, a := range all {
		for _, b := range all {
			if a.Tunnel != tunnel || b.Tunnel != other || a.Round != b.Round {
				continue
			}
			x, measured := a.Values[m]
			y, too := b.Values[n]
			if v := join(x, y); measured && too && !math.IsNaN(v) && !math.IsInf(v, 0) { // nothing is a multiple of 0
				values = append(values, v)
			}
		}
	}
	return spreadOf(values)
}

func quotient(a, b float64) float64   { return a / b }
func difference(a, b float64) float64 { return a - b }

// ratio is tunnel ÷ other, round by round.
func (all results) ratio(tunnel, other string, m metric) spread {
	return all.pairs(tunnel, m, other, m, quotient)
}

// A column is one figure of the table.
type column struct {
	title    string
	decimals int
	spread   func(all results, tunnel string) spread
}

func plain(title string, decimals int, m metric) column {
	return column{title, decimals, func(all results, t string) spread { return all.of(t, m) }}
}

var columns = []column{
	plain("TCP one stream, Mbit/s", 0, one),
	{"÷ VXLAN", 2, func(all results, t string) spread { return all.ratio(t, alike(t, "vxlan"), one) }},
	{"÷ tinc", 1, func(all results, t string) spread { return all.ratio(t, "tinc", one) }},
	plain("four streams", 0, four),
	plain("reverse", 0, reverse),
	plain("RTT p50, µs", 0, rtt50),
	{"over bare", 0, func(all results, t string) spread { return all.pairs(t, rtt50, alike(t, "veth"), rtt50, difference) }},
	plain("RTT p99", 0, rtt99),
	plain("64 B, k/s", 0, small),
	plain("daemons, CPU s/GB", 2, daemonsCPU),
	plain("machine, CPU s/GB", 2, machineCPU),
	plain("resident, MB", 0, resident),
	plain("peak", 0, peak),
}

// table is a row of each tunnel.
func (all results) table(rows []tunnel) string {
	var t strings.Builder
	t.WriteString("| |")
	for _, c := range columns {
		t.WriteString(" " + c.title + " |")
	}
	t.WriteString("\n|" + strings.Repeat("---|", len(columns)+1) + "\n")
	for _, row := range rows {
		t.WriteString("| " + row.label + " |")
		for _, c := range columns {
			t.WriteString(" " + c.spread(all, row.name).text(c.decimals) + " |")
		}
		t.WriteString("\n")
	}
	t.WriteString("\n" + all.notes())
	return t.String()
}

// quietPercent is how busy an idle machine may be: above, others had their
// share in the figures.
const quietPercent = 10

// notes say how to read the table, and what went wrong.
func (all results) notes() string {
	var t strings.Builder
	t.WriteString("Medians (least–most). Ratios are of the same round, and to the VXLAN and the bare path over the same underlay. " +
		"64 B: UDP with 64 bytes of payload, highest rate with less than 1 % lost. " +
		"CPU: during the one stream, of both daemons or of all cores with the load itself. Memory: of the larger daemon.\n")
	var busy []float64
	for _, c := range all {
		if b, ok := c.Values[idle]; ok {
			busy = append(busy, b)
		}
	}
	if s := spreadOf(busy); s.n > 0 {
		fmt.Fprintf(&t, "With the tunnels idle the machine was %s %% busy.", s.text(0))
		if s.median > quietPercent || s.top > 3*quietPercent {
			t.WriteString(" IT WAS NOT QUIET: measure again.")
		}
		t.WriteString("\n")
	}
	for _, c := range all {
		if c.Error != "" {
			fmt.Fprintf(&t, "Round %d: %s failed.\n", c.Round, c.Tunnel)
		}
	}
	return t.String()
}

func cores() int { return runtime.NumCPU() }

// machine describes where and what is measured, in general words.
func machine(p plan) string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	text := fmt.Sprintf("Rounds: %d, TCP for %d s each. Both agents and both ends of the load on one machine: %d cores (%s), Linux %s, veth of MTU 1500.\n",
		p.rounds, p.seconds, cores(), runtime.GOARCH, unix.ByteSliceToString(u.Release[:]))
	var versions []string
	for _, t := range p.tunnels {
		if t.debian == "" {
			continue
		}
		if v, err := run("dpkg-query", "-W", "-f", "${Version}", t.debian); err == nil {
			versions = append(versions, t.debian+" "+v)
		}
	}
	if len(versions) > 0 {
		text += "Debian's " + strings.Join(versions, ", ") + ".\n"
	}
	return text
}
