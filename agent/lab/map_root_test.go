package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"
	"time"
)

// A mapPair is what these tests read of a pair of 'farlan map --json'.
type mapPair struct {
	From   string   `json:"from"`
	To     string   `json:"to"`
	RTT    *float64 `json:"rtt_ms"`
	Source *string  `json:"rtt_source"`
	Age    *float64 `json:"rtt_age_s"`
	Loss   *float64 `json:"loss"`

	Relayed  bool     `json:"relayed"`
	Via      *string  `json:"via"`
	Capacity *float64 `json:"capacity_mbit"`
}

// pairs returns what a site's agent shows.
func (l *Lab) pairs(t *testing.T, site string) ([]mapPair, error) {
	t.Helper()
	b, err := l.farlan(within(t, 10*time.Second), site, "map", "--json")
	if err != nil {
		return nil, err
	}
	var v struct {
		Pairs []mapPair `json:"pairs"`
	}
	return v.Pairs, json.Unmarshal(b, &v)
}

// peerMap returns the round trips in milliseconds that a site's agent shows as measured.
func (l *Lab) peerMap(t *testing.T, site string) (map[[2]string]float64, error) {
	t.Helper()
	pairs, err := l.pairs(t, site)
	if err != nil {
		return nil, err
	}
	rtts := make(map[[2]string]float64)
	for _, p := range pairs {
		if p.Source != nil && *p.Source == "measured" {
			rtts[[2]string{p.From, p.To}] = *p.RTT
		}
	}
	return rtts, nil
}

// shows says whether a site's agent shows the true round trips of all pairs, those that
// others measured within 5 % or 1 ms.
func (l *Lab) shows(t *testing.T, site string, truth map[[2]string]float64) (worst float64, err error) {
	t.Helper()
	rtts, err := l.peerMap(t, site)
	if err != nil {
		return 0, err
	}
	if len(rtts) != len(truth) {
		return 0, fmt.Errorf("%s shows %d pairs, want %d", site, len(rtts), len(truth))
	}
	var errs []error
	for pair, want := range truth {
		off := math.Abs(rtts[pair] - want)
		if off > max(0.05*want, 1) {
			errs = append(errs, fmt.Errorf("%s shows %.2f ms for %v, want %.2f", site, rtts[pair], pair, want))
		}
		worst = max(worst, off/want)
	}
	return worst, errors.Join(errs...)
}

// complete waits until each site's agent shows that all pairs are measured, and returns
// how long that took.
func (l *Lab) complete(t *testing.T, sites []string) time.Duration {
	t.Helper()
	began := time.Now()
	eventually(t, time.Minute, func() error {
		for _, s := range sites {
			rtts, err := l.peerMap(t, s)
			if want := len(sites) * (len(sites) - 1); err != nil || len(rtts) != want {
				return fmt.Errorf("%s shows %d pairs, want %d, %w", s, len(rtts), want, err)
			}
		}
		return nil
	})
	return time.Since(began)
}

// Sites at different distances: each agent soon shows that all pairs are measured, also
// those that only others did, and their round trips; a step is seen by all soon. With
// FARLAN_LONG there are more of them, and a killed one isn't shown any more.
func TestMapOfSites(t *testing.T) {
	o := testOptions(t)
	o.Sites, o.VMs = 3, 0
	if os.Getenv("FARLAN_LONG") != "" {
		o.Sites = 8
	}
	o.Shape = Shape{Delay: 25 * time.Millisecond, Rate: 100_000, Queue: Queue{Time: DefaultQueue}}
	l := up(t, o)
	sites := []string{"home"}
	for i := 1; i < o.Sites; i++ {
		sites = append(sites, fmt.Sprint("site", i))
	}
	eventually(t, time.Minute, func() error {
		for _, s := range sites {
			if status, err := l.status(within(t, 10*time.Second), s); err != nil || status.Peers != len(sites)-1 {
				return fmt.Errorf("%s has %d peers, %w", s, status.Peers, err)
			}
		}
		return nil
	})
	all := l.complete(t, sites)
	t.Logf("%d agents show all pairs %v after all peers are up", len(sites), all.Round(10*time.Millisecond))
	if all > 15*time.Second { // on a busy machine; 1 s else
		t.Error("that is too long")
	}
	truth := make(map[[2]string]float64)
	set := func(a, b string, delay time.Duration) {
		output(t, o, "wan", a, b, "--delay", delay.String(), "--both")
		rtt := 2 * delay.Seconds() * 1000
		truth[[2]string{a, b}], truth[[2]string{b, a}] = rtt, rtt
	}
	for i, a := range sites {
		for j, b := range sites[:i] {
			set(a, b, time.Duration(3+4*i+2*j)*time.Millisecond)
		}
	}
	settled := func(limit time.Duration) time.Duration {
		t.Helper()
		began := time.Now()
		var worst float64
		eventually(t, limit, func() (err error) {
			worst = 0
			for _, s := range sites {
				w, err := l.shows(t, s, truth)
				if err != nil {
					return err
				}
				worst = max(worst, w)
			}
			return nil
		})
		t.Logf("%d agents show the truth of all pairs after %v, off by %.1f %% at most", len(sites), time.Since(began).Round(10*time.Millisecond), 100*worst)
		return time.Since(began)
	}
	settled(2 * time.Minute)

	// home and site1 alone measure their pair; the step shows everywhere.
	set("home", "site1", 60*time.Millisecond)
	pair := [2]string{"home", "site1"}
	began := time.Now()
	first := time.Duration(0)
	eventually(t, time.Minute, func() error {
		rtts, err := l.peerMap(t, "home")
		if err != nil || math.Abs(rtts[pair]-120) > 6 {
			return fmt.Errorf("%.1f ms, %w", rtts[pair], err)
		}
		return nil
	})
	first = time.Since(began)
	all = first + settled(time.Minute)
	t.Logf("a step to 120 ms: the pair itself shows it after %v, all after %v", first.Round(10*time.Millisecond), all.Round(10*time.Millisecond))
	if all-first > 20*time.Second { // on a busy machine; 3 s else
		t.Errorf("the others show it %v after the pair", all-first)
	}

	if os.Getenv("FARLAN_LONG") == "" {
		return
	}
	// Who is killed is shown until he is given up, and then no more.
	last := sites[len(sites)-1]
	if err := l.killAgent(within(t, 10*time.Second), last); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	sites = sites[:len(sites)-1]
	eventually(t, time.Minute, func() error {
		for _, s := range sites {
			rtts, err := l.peerMap(t, s)
			if err != nil {
				return err
			}
			for pair := range rtts {
				if pair[0] == last || pair[1] == last {
					return fmt.Errorf("%s still shows %v", s, pair)
				}
			}
		}
		return nil
	})
	t.Logf("a killed agent's pairs vanish within %v", time.Since(killed).Round(10*time.Millisecond))
}

// Two sites whose NATs let no datagram pass between them: all agents show what frames
// between the two experience by way of a member, and the two show by whose.
func TestMapOfRelayed(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Sites, o.VMs, o.NATs = 4, 0, nats(t, "site1=symmetric", "site2=symmetric")
	o.Shape = Shape{Delay: 20 * time.Millisecond, Rate: 100_000, Queue: Queue{Time: DefaultQueue}}
	l := up(t, o)
	const direct = 40 // ms; a relay is as far from both
	check := func(site string, p mapPair) error {
		relayed, want := p.From[:4]+p.To[:4] == "sitesite" && p.From != "site3" && p.To != "site3", float64(direct)
		if relayed {
			want = 2 * direct
		}
		switch {
		case p.Source == nil || *p.Source != "measured" || p.Loss == nil || p.Relayed != relayed:
		case math.Abs(*p.RTT-want) > 0.05*want || *p.Loss > 0.05:
		case (p.Via != nil) != (relayed && p.From == site), p.Via != nil && *p.Via != "home" && *p.Via != "site3", relayed && p.Capacity != nil:
		default:
			return nil
		}
		b, err := json.Marshal(p)
		return errors.Join(fmt.Errorf("%s shows %s, want %v ms, relayed %v", site, b, want, relayed), err)
	}
	began := time.Now()
	eventually(t, time.Minute, func() error {
		for _, s := range []string{"home", "site1", "site2", "site3"} {
			pairs, err := l.pairs(t, s)
			if err != nil || len(pairs) != 12 {
				return fmt.Errorf("%s shows %d pairs, %w", s, len(pairs), err)
			}
			for _, p := range pairs {
				if err := check(s, p); err != nil {
					return err
				}
			}
		}
		return nil
	})
	t.Logf("4 agents show all pairs, 2 of them relayed, after %v", time.Since(began).Round(10*time.Millisecond))
}
