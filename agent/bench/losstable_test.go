package bench

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
)

// lossGoal is the part of the bare path's rate that TCP is to get.
const lossGoal = 0.9

// lossRuns are the connections of a run.
type lossRuns []lossRun

// values are a metric of all connections of a kind.
func (all lossRuns) values(congestion, loss, way string, m metric) (values []float64) {
	for _, r := range all {
		if v, ok := r.Values[m]; ok && r.Congestion == congestion && r.Loss == loss && r.Way == way {
			values = append(values, v)
		}
	}
	return values
}

// A quotientOfMeans has its standard error: chance decides what each connection
// loses, so single ones say little. The zero value is of nothing measured.
type quotientOfMeans struct{ mean, error float64 }

func (q quotientOfMeans) String() string {
	if q.mean == 0 {
		return "—"
	}
	return fmt.Sprintf("%.3f ± %.3f", q.mean, q.error)
}

// ratio is the mean of farlan's connections ÷ the mean of the bare ones that lost
// packets of the same numbers. Its error is that of a ratio estimator (Cochran,
// Sampling Techniques, 6.4): of what a connection has more or less than the ratio
// gives it.
func (all lossRuns) ratio(congestion, loss string) quotientOfMeans {
	type twins struct{ bare, ours float64 }
	rates := map[[2]int]twins{}
	for _, r := range all {
		if v, ok := r.Values[one]; ok && r.Congestion == congestion && r.Loss == loss {
			t := rates[[2]int{r.Round, r.Pair}]
			if r.Way == "bare" {
				t.bare = v
			} else {
				t.ours = v
			}
			rates[[2]int{r.Round, r.Pair}] = t
		}
	}
	maps.DeleteFunc(rates, func(_ [2]int, t twins) bool { return t.bare == 0 || t.ours == 0 })
	n := float64(len(rates))
	bare, ours, squares := 0.0, 0.0, 0.0
	for _, t := range rates {
		bare, ours = bare+t.bare/n, ours+t.ours/n
	}
	if n == 0 {
		return quotientOfMeans{}
	}
	q := ours / bare
	for _, t := range rates {
		squares += (t.ours - q*t.bare) * (t.ours - q*t.bare)
	}
	if n == 1 {
		return quotientOfMeans{q, math.Inf(1)}
	}
	return quotientOfMeans{q, math.Sqrt(squares/(n*(n-1))) / bare}
}

// mean returns the mean of values, 0 of none.
func mean(values []float64) (m float64) {
	for _, v := range values {
		m += v / float64(len(values))
	}
	return m
}

// observed is the part of the wire's packets that were lost.
func (all lossRuns) observed(congestion, loss, way string) float64 {
	packets := mean(all.values(congestion, loss, way, wirePackets))
	lost := mean(all.values(congestion, loss, way, wireLost))
	return lost / packets
}

// model is the ratio that Mathis et al. (1997) expect: TCP's rate is
// proportional to segment ÷ (round trip × √loss), with the loss that the wire
// really had. What the ratio lacks of this, the overlay makes of a loss.
// BBR goes by neither.
func (all lossRuns) model(congestion, loss string) string {
	if congestion == "bbr" {
		return spread{}.text(0)
	}
	of := func(way string) float64 {
		size := mean(all.values(congestion, loss, way, segment))
		rtt := mean(all.values(congestion, loss, way, rttMean))
		return size / rtt / math.Sqrt(all.observed(congestion, loss, way))
	}
	return fmt.Sprintf("%.3f", of("farlan")/of("bare"))
}

// table is a row of each loss.
func (all lossRuns) table(congestions []string) string {
	var t strings.Builder
	t.WriteString("| congestion control | loss | observed, bare and farlan | bare, Mbit/s | farlan, Mbit/s | " +
		"bare, RTT ms | farlan, RTT ms | segment, RTT, loss allow | ratio of means | goal |\n" + strings.Repeat("|---", 10) + "|\n")
	for _, c := range congestions {
		for _, loss := range lossRates {
			q := all.ratio(c, loss)
			if q.mean == 0 {
				continue
			}
			goal := "missed"
			if q.mean >= lossGoal {
				goal = "met"
			}
			of := func(way string, m metric, decimals int) string {
				return spreadOf(all.values(c, loss, way, m)).text(decimals)
			}
			fmt.Fprintf(&t, "| %s | %s | %.3f, %.3f %% | %s | %s | %s | %s | %s | %s | ≥ %.1f: %s |\n", c, loss,
				100*all.observed(c, loss, "bare"), 100*all.observed(c, loss, "farlan"),
				of("bare", one, 2), of("farlan", one, 2), of("bare", rttMean, 1), of("farlan", rttMean, 1),
				all.model(c, loss), q, lossGoal, goal)
		}
	}
	fmt.Fprintf(&t, "\nMedians (least–most) of %d connections at most. The ratio is mean ÷ mean of all, ± its standard error. "+
		"Round trip %v, no offload on the wire, each direction loses. The rate of TCP that slows down for losses is "+
		"proportional to segment ÷ (round trip × √loss) (Mathis et al.): what these allow is the ratio if farlan adds no loss.\n", len(all)/(2*len(congestions)*len(lossRates)), 2*wanDelay)
	return t.String()
}

// verdicts are the goals as a list.
func (all lossRuns) verdicts(congestion string) string {
	var t strings.Builder
	t.WriteString("goals\n\n")
	for _, loss := range lossRates {
		q := all.ratio(congestion, loss)
		v := verdict{fmt.Sprintf("TCP at %s loss ≥ %.1f of the bare path", loss, lossGoal), q.String(), q.mean > 0, q.mean >= lossGoal}
		t.WriteString(v.String() + "\n")
	}
	return t.String()
}

func TestLossTable(t *testing.T) {
	var all lossRuns
	segments := map[string]float64{"bare": 1000, "farlan": 900}
	add := func(loss, way string, rates ...float64) {
		for i, r := range rates {
			all = append(all, lossRun{Round: i + 1, Congestion: "cubic", Loss: loss, Way: way, Values: sample{
				one: r, wirePackets: 1000, wireLost: 10, segment: segments[way], rttMean: 20,
			}})
		}
	}
	add("1%", "bare", 9, 11)
	add("1%", "farlan", 9, 9)
	add("3%", "bare", 4, 4)
	add("3%", "farlan", 3, 3)
	got := all.table([]string{"cubic"}) + all.verdicts("cubic")
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") != 11 {
			t.Errorf("a row of another length: %s", line)
		}
	}
	for _, want := range []string{
		"| cubic | 1% | 1.000, 1.000 % | 10.00 (9.00–11.00) | 9.00 (9.00–9.00) | 20.0 (20.0–20.0) | 20.0 (20.0–20.0) | 0.900 | 0.900 ± 0.090 | ≥ 0.9: met |",
		"- TCP at 0.1% loss ≥ 0.9 of the bare path: not measured\n",
		"- TCP at 1% loss ≥ 0.9 of the bare path: 0.900 ± 0.090: met\n",
		"- TCP at 3% loss ≥ 0.9 of the bare path: 0.750 ± 0.000: **missed**\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
