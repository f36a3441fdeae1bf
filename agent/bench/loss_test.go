package bench

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// lossRates are the parts of the wire's packets that get lost, each way.
var lossRates = []string{"0.1%", "1%", "3%"}

// ways are what TCP is compared over: the wide area itself, and farlan over it.
var ways = []struct{ name, addr string }{{"bare", underlay(1)}, {"farlan", overlay(1)}}

// lossPairs are how many pairs of hosts, each with a wide area of its own,
// measure at the same time: with a round trip of 20 ms, loss and not the machine
// sets the rates, and the more connections there are, the less chance says. With
// more on two processors they wait for each other, which is a longer round trip.
const lossPairs = 4

// soon has a program run as soon as it can. The bare path is all in the
// emulator's hands: what farlan's processes wait for processors besides, on a
// machine where others work too, would be a longer round trip, and the rate of
// TCP under loss is inverse to that. The emulator itself gets the same. It is no
// real-time priority: a sweeper of Go's collector that spins with one keeps the
// thread that it spins for from its processor for ever.
var soon = []string{"nice", "-n", "-20"}

// rateOfBBR bounds what does not slow down for a loss.
const rateOfBBR = "25Mbit"

// The metrics beside TCP's rate, which is called one here too.
const (
	retransmits metric = "tcp_retransmits"
	segment     metric = "tcp_mss"
	rttMean     metric = "tcp_rtt_ms"
	wirePackets metric = "wire_packets" // in the direction of the load, the lost ones included
	wireLost    metric = "wire_lost"
	wireBack    metric = "wire_packets_back"
)

// A lossRun is one TCP connection.
type lossRun struct {
	Round      int    `json:"round"`
	Pair       int    `json:"pair"`
	Congestion string `json:"congestion"`
	Loss       string `json:"loss"`
	Way        string `json:"way"`
	Values     sample `json:"values,omitempty"`
	Error      string `json:"error,omitempty"`
}

func (r lossRun) String() string {
	head := fmt.Sprintf("%s, loss %s, %s, pair %d", r.Congestion, r.Loss, r.Way, r.Pair)
	if r.Error != "" {
		return head + " FAILED: " + r.Error
	}
	v := r.Values
	return fmt.Sprintf("%s: %.2f Mbit/s, %.0f resent, RTT %.1f ms, MSS %.0f, %.0f of %.0f packets lost, %.0f back",
		head, v[one], v[retransmits], v[rttMean], v[segment], v[wireLost], v[wirePackets], v[wireBack])
}

// BenchmarkLoss compares TCP over farlan with TCP over the path below it while
// the path loses packets.
func BenchmarkLoss(b *testing.B) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "NOT ROOT: loss was NOT MEASURED, it needs network namespaces")
		b.Skip("needs root for network namespaces")
	}
	congestions := strings.Split(cmp.Or(os.Getenv("FARLAN_CONGESTION"), "cubic"), ",")
	p, err := planned()
	if err != nil {
		b.Fatal(err)
	}
	p.rounds, p.seconds = number("FARLAN_ROUNDS", 6), number("FARLAN_SECONDS", 15)
	dir, dismiss, err := janitor()
	if err != nil {
		b.Fatal(err)
	}
	defer dismiss()
	p.dir = dir
	b.ResetTimer()
	all, err := p.measureLoss(congestions)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Print("\n", all.table(congestions), "\n", all.verdicts(congestions[0]))
	for _, r := range all {
		if r.Error != "" {
			b.Errorf("round %d: %s", r.Round, r)
		}
	}
	for _, loss := range lossRates {
		b.ReportMetric(all.ratio(congestions[0], loss).mean, "÷bare@"+loss)
	}
	b.ReportMetric(0, "ns/op")
}

// measureLoss goes through all runs. Bare and overlay take turns, every second
// round the other way round.
func (p plan) measureLoss(congestions []string) (lossRuns, error) {
	pairs := make([]*wan, lossPairs)
	for i := range pairs {
		w, err := newWAN(p, i)
		defer w.close()
		pairs[i] = w
		if err == nil {
			err = w.prepare()
		}
		if err != nil {
			return nil, fmt.Errorf("pair %d: %w%s", i, err, w.lastWords())
		}
	}
	var all lossRuns
	for round := 1; round <= p.rounds; round++ {
		for _, congestion := range congestions {
			for _, loss := range lossRates {
				order := slices.Clone(ways)
				if round%2 == 0 {
					slices.Reverse(order)
				}
				for _, way := range order {
					all = append(all, p.together(pairs, lossRun{Round: round, Congestion: congestion, Loss: loss, Way: way.name}, way.addr)...)
				}
			}
		}
	}
	return all, nil
}

// settle is how long farlan gets, once its peers have met, to find the path's
// MTU: TCP takes its segment size from that when it connects.
const settle = 3 * time.Second

// prepare starts farlan and what answers the load, and waits for them.
func (w *wan) prepare() error {
	if err := w.startFarlan(); err != nil {
		return err
	}
	if _, err := w.spawn(1, "iperf3", "-s"); err != nil {
		return err
	}
	if err := w.listening(1, ":5201"); err != nil {
		return err
	}
	for _, way := range ways {
		if err := w.reach(way.addr); err != nil {
			return err
		}
	}
	time.Sleep(settle)
	return nil
}

// together measures on all pairs at the same time.
func (p plan) together(pairs []*wan, r lossRun, addr string) []lossRun {
	runs := make([]lossRun, len(pairs))
	var wg sync.WaitGroup
	for i, w := range pairs {
		runs[i] = r
		runs[i].Pair = i
		wg.Go(func() {
			v, err := w.load(addr, runs[i], p.seconds)
			if err != nil {
				runs[i].Error = err.Error() + w.lastWords()
			}
			runs[i].Values = v
		})
	}
	wg.Wait()
	for _, r := range runs {
		fmt.Fprintf(os.Stderr, "%s round %d/%d, %s\n", time.Now().Format(time.TimeOnly), r.Round, p.rounds, r)
		if err := p.record(r); err != nil {
			fmt.Fprintf(os.Stderr, "FARLAN_BENCH_OUT: %v\n", err)
		}
	}
	return runs
}

// load measures one connection to addr, with the path's counters before it and
// behind. Both ways of a round lose packets of the same numbers: what chance does
// to the one it does to the other.
func (w *wan) load(addr string, run lossRun, seconds int) (sample, error) {
	congestion, rate := run.Congestion, "unlimited"
	if congestion != "cubic" {
		rate = rateOfBBR
	}
	if err := w.set(map[string]any{"loss": run.Loss, "rate": rate, "seed": run.Round*lossPairs + run.Pair}); err != nil {
		return nil, err
	}
	before, err := w.traffic()
	if err != nil {
		return nil, err
	}
	r, err := w.iperf(addr, seconds, "-C", congestion)
	if err != nil { // the last run's farewell may have been lost: iperf3's server refuses until it gives up
		time.Sleep(time.Second)
		if before, err = w.traffic(); err == nil {
			r, err = w.iperf(addr, seconds, "-C", congestion)
		}
		if err != nil {
			return nil, err
		}
	}
	after, err := w.traffic()
	if err != nil {
		return nil, err
	}
	if len(r.End.Streams) != 1 || r.mbit() == 0 {
		return nil, errors.New("iperf3 moved nothing")
	}
	there, back := after[0].less(before[0]), after[1].less(before[1])
	if odd := there.TooLong + back.TooLong + there.Refused + back.Refused; odd > 0 {
		return nil, fmt.Errorf("%v packets were too long for the path, or too many for the emulator: %+v, %+v", odd, there, back)
	}
	return sample{
		one: r.mbit(), retransmits: r.End.Sent.Retransmits, segment: r.Start.MSS, rttMean: r.End.Streams[0].Sender.RTT / 1000,
		wirePackets: there.Packets + there.Lost, wireLost: there.Lost, wireBack: back.Packets + back.Lost,
	}, nil
}
