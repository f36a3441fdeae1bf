package agent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// takeWord has an agent's broker do what an order says.
func (n *node) takeWord(now overlay.Instant, o order, id func(string) overlay.AgentID) (asked string, err error) {
	switch {
	case o.Want > 0:
		q := reserve.Request{Flow: n.orderedFlow(o, id), Rate: o.Want, For: o.For, Owner: "owner"}
		for _, name := range o.Path {
			q.Path = append(q.Path, id(name))
		}
		var r [16]byte
		r, err = n.requestReservation(now, q)
		return hex.EncodeToString(r[:]), err
	case o.Free != "":
		var r [16]byte
		if _, err = hex.Decode(r[:], []byte(o.Free)); err == nil {
			err = n.releaseReservation(now, r)
		}
	}
	return "", err
}

func (n *node) orderedFlow(o order, id func(string) overlay.AgentID) reserve.Flow {
	return reserve.Flow{From: n.self, To: id(o.To), Source: o.Pair[0], Dest: o.Pair[1]}
}

// stands returns how the reservations of a flow stand at an agent, the newest last, and why.
func (d *process) stands(o order) (all []reserve.State, why string) {
	d.t.Helper()
	x := d.has(order{Rows: true, To: o.To, Pair: o.Pair})
	for _, r := range x.Rows {
		if r.ID.Segment == 0 && r.Flow.Source == o.Pair[0] && r.Flow.Dest == o.Pair[1] {
			all = append(all, r.Whole)
			why = r.Reason
		}
	}
	return all, why + "; " + x.Why
}

// becomes waits until a flow's newest reservation is in a state.
func (d *process) becomes(o order, want reserve.State, within time.Duration) {
	d.t.Helper()
	eventually(d.t, within, func() error {
		all, why := d.stands(o)
		if len(all) == 0 || all[len(all)-1] != want {
			return fmt.Errorf("reservations are %v, want %v: %s", all, want, why)
		}
		return nil
	})
}

// queues returns the classes that a namespace's kernel has at an interface.
func (s *sites) queues(ns, device string) []string {
	var all []string
	for line := range strings.SplitSeq(s.in(ns, "tc class show dev "+device), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "htb" {
			all = append(all, f[2])
		}
	}
	return all
}

// narrowRate is what narrow ways out carry.
var narrowRate = (100 * reserve.Mbit / slowness).String()

// throttle has an interface take no more than a rate, as a provider does behind a host's way out.
func (y *yard) throttle(ns, device string, rate reserve.Rate) {
	y.in(ns, "ip link add farlan-ifb type ifb")
	y.in(ns, "ip link set farlan-ifb up")
	y.in(ns, fmt.Sprintf("tc qdisc add dev farlan-ifb root tbf rate %dkbit burst 64k limit 256k", rate))
	y.in(ns, "tc qdisc add dev "+device+" ingress")
	y.in(ns, "tc filter add dev "+device+" parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev farlan-ifb")
}

// An owner asks for 60 Mbit/s of its agent's narrow way out for a pair, and the pair has them,
// in spite of all that others on the same host send to the same far one; the others have what is left. When it is
// given back nothing is left in the kernel.
func TestReserveAtTheSender(t *testing.T) {
	t.Parallel()
	begin, last := spans()
	y := newYard(t, nil, "--uplink", narrowRate, "--reserve", "tc", "--reserve-auto", "off")
	a := y.agents[0]
	o := order{To: "b", Want: 60 * reserve.Mbit / slowness, For: 10 * time.Minute, Pair: [2]overlay.MAC{y.mac(0, 1), y.mac(1, 1)}}
	stop := y.crowd(70)
	tryThrice(t, func() error {
		end := y.flow(greedyTCP)
		time.Sleep(2 * begin)
		without := y.rate(2 * last)
		asked := a.has(o).Asked
		a.becomes(o, reserve.Active, 10*time.Second)
		if q := y.queues(y.a, "u"); len(q) < 3 {
			t.Errorf("the kernel has %v", q)
		}
		time.Sleep(begin)
		tcp := y.rate(last)
		end()
		y.calm()
		udp := y.steady(last)
		a.has(order{Free: asked})
		a.becomes(o, reserve.Released, 10*time.Second)
		if q := y.queues(y.a, "u"); len(q) != 0 {
			t.Errorf("the kernel still has %v", q)
		}
		t.Logf("without %.1f Mbit/s; reserved: TCP %.1f, UDP %.2f with %.3f %% lost", without, tcp, udp.mbit, udp.loss)
		return served(without, tcp, udp)
	})
	if others := stop(); others < 20 {
		t.Errorf("others have %.1f Mbit/s", others)
	}
	if out := y.in(y.a, "tc qdisc show dev u"); strings.Contains(out, "htb") {
		t.Errorf("what is left: %s", out)
	}
}

// A pair that begins a long transfer while others take nearly all of a narrow way has its
// reservation within a minute though nobody asks for it, keeps it, and nothing of it is left 90 s
// after it ends. One that is over after 25 s has none.
func TestReserveByItself(t *testing.T) {
	t.Parallel()
	lasts := 22 * time.Second // beyond what it takes until it has one
	if os.Getenv("FARLAN_LONG") != "" {
		lasts = 10*time.Minute - 35*time.Second
	}
	y := newYard(t, nil, "--uplink", "20Mbit", "--reserve", "tc", "--reserve", "dscp")
	a, o := y.agents[0], order{To: "b", Pair: [2]overlay.MAC{y.mac(0, 1), y.mac(1, 1)}}
	stop := y.crowd(14)
	began := time.Now()
	end := y.start(y.vm(0, 1), greedyTCP)
	time.Sleep(5 * time.Second)
	without := y.rate(5 * time.Second)
	a.becomes(o, reserve.Active, time.Minute-time.Since(began))
	had := time.Since(began)
	time.Sleep(lasts - 8*time.Second) // it grows while it waits
	with := y.rate(8 * time.Second)
	if all, why := a.stands(o); len(all) != 1 || all[0] != reserve.Active {
		t.Errorf("while it sends its reservations are %v: %s", all, why)
	}
	end()
	ended := time.Now()
	short := order{To: "b", Pair: [2]overlay.MAC{y.mac(0, 2), y.mac(1, 1)}}
	end = y.start(y.vm(0, 2), greedyTCP)
	time.Sleep(25 * time.Second)
	end()
	a.becomes(o, reserve.Released, 90*time.Second-time.Since(ended))
	gone := time.Since(ended)
	eventually(t, 5*time.Second, func() error {
		if q := y.queues(y.a, "u"); len(q) != 0 {
			return fmt.Errorf("the kernel still has %v", q)
		}
		return nil
	})
	if all, why := a.stands(short); len(all) != 0 {
		t.Errorf("one of 25 s had %v: %s", all, why)
	}
	t.Logf("without %.1f Mbit/s; reserved after %.1f s: %.1f Mbit/s beside %.1f of others; given back after %.1f s", without, had.Seconds(), with, stop(), gone.Seconds())
	if with < 2*without {
		t.Errorf("it has %.1f Mbit/s, and had %.1f", with, without)
	}
}

// An owner's, where the narrow way is that out of a relay, which reserves it for the sender's agent.
func TestReserveAtTheRelay(t *testing.T) {
	t.Parallel()
	begin, last := spans()
	y := newYard(t, []string{"--uplink", narrowRate, "--reserve", "tc"}, "--uplink", "1Gbit", "--reserve", "tc", "--reserve-auto", "off")
	a, c := y.agents[0], y.middle
	y.throttle(y.b, "u", 105*reserve.Mbit/slowness)
	o := order{To: "b", Path: []string{"c"}, Want: 60 * reserve.Mbit / slowness, For: 10 * time.Minute, Pair: [2]overlay.MAC{y.mac(0, 1), y.mac(1, 1)}}
	stop := y.crowd(70)
	tryThrice(t, func() error {
		end := y.flow(greedyTCP)
		time.Sleep(2 * begin)
		without := y.rate(2 * last)
		asked := a.has(o).Asked
		a.becomes(o, reserve.Active, 10*time.Second)
		time.Sleep(begin)
		tcp := y.rate(last)
		end()
		y.calm()
		udp := y.steady(last)
		use := c.has(order{Rows: true}).Rows
		a.has(order{Free: asked})
		a.becomes(o, reserve.Released, 10*time.Second)
		t.Logf("without %.1f Mbit/s; reserved: TCP %.1f, UDP %.2f with %.3f %% lost; relay: %+v", without, tcp, udp.mbit, udp.loss, use)
		if i := slices.IndexFunc(use, func(r reserve.Row) bool { return r.State == reserve.Active }); i < 0 {
			return errors.New("the relay has no part in it")
		}
		return served(without, tcp, udp)
	})
	if others := stop(); others < 20 {
		t.Errorf("others have %.1f Mbit/s", others)
	}
	for ns, device := range map[string]string{y.a: "u", y.r: "ub"} {
		if out := y.in(ns, "tc qdisc show dev "+device); strings.Contains(out, "htb") {
			t.Errorf("what is left: %s", out)
		}
	}
}
