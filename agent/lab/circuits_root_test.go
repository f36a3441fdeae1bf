package lab

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

// A circuitTest is a lab with circuits, and who asks for them at the far sites.
type circuitTest struct {
	l     *Lab
	o     Options
	ask   [2]*requester // at site1, with callbacks, and at site2, without
	count byte
}

// TestCircuits: circuits of the lab's wide area are granted, carry what was promised and no more,
// go on without their provider, are broken and mended and known to be, and leave nothing.
func TestCircuits(t *testing.T) {
	t.Parallel()
	c := &circuitTest{o: testOptions(t)}
	c.o.Sites, c.o.VMs, c.o.Circuits = 3, 0, true
	c.o.Shape = Shape{Delay: time.Millisecond, Queue: Queue{Time: DefaultQueue}}
	c.l = up(t, c.o)
	before := c.interfaces(t)
	c.ask = [2]*requester{c.l.requester(t, "site1", true), c.l.requester(t, "site2", false)}
	t.Run("one", c.one)
	t.Run("more than there are", c.tooMany)
	if after := c.interfaces(t); after != before {
		t.Errorf("interfaces before:\n%s\nand after:\n%s", before, after)
	}
	c.empty(t)
}

// interfaces returns what interfaces there are where circuits are.
func (c *circuitTest) interfaces(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, h := range append(c.l.agentHosts(), c.l.mustHost(t, "wan")) {
		for _, args := range [][]string{{"-o", "-br", "link"}, {"-o", "-br", "address"}} {
			out, err := h.run(t.Context(), "ip", args...)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "%s:\n%s", h.Name, out)
		}
	}
	return all.String()
}

// circuits runs a verb of lab circuits and returns what is there then.
func (c *circuitTest) circuits(t *testing.T, args ...string) circuitsView {
	t.Helper()
	var v circuitsView
	if err := json.Unmarshal([]byte(output(t, c.o, "circuits", append(args, "--json")...)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// empty checks that nothing is held or carried.
func (c *circuitTest) empty(t *testing.T) {
	t.Helper()
	v := c.circuits(t, "list")
	for _, r := range v.Reservations {
		if r.Held || r.Up {
			t.Errorf("still held: %+v", r)
		}
	}
	if len(v.Circuits) > 0 || !v.Provider.Running {
		t.Errorf("still carried: %+v", v)
	}
}

// want is a circuit from a site to home.
func (c *circuitTest) want(site string, rate reserve.Rate) reserve.Want {
	c.count++
	return reserve.Want{
		ID: reserve.ID{Reservation: [16]byte{c.count}}, Kind: reserve.Circuit, Rate: rate,
		From: requesterID(site), To: requesterID("home"),
		End: overlay.Instant(time.Now().Add(10 * time.Minute).UnixNano()),
	}
}

// circuit is one that stands.
type circuit struct {
	outcome
	near, far *vlanPort
}

// open asks for a circuit from site1 to home and has it activated.
func (c *circuitTest) open(t *testing.T, rate reserve.Rate) circuit {
	t.Helper()
	held := c.ask[0].do(order{Do: "hold", Wants: []reserve.Want{c.want("site1", rate)}})[0]
	if held.Err != "" {
		t.Fatal(held.Err)
	}
	far := held.Far
	committed := c.ask[0].one("commit", held.Grant)
	k := circuit{outcome: c.ask[0].one("activate", committed.Grant)}
	if g := k.Grant; g.State != reserve.Active || !g.Up || g.Rate != rate || g.Mark.Source != far.Peer || far.Source != g.Mark.Peer {
		t.Fatalf("%+v, and at the far end %+v", g, far)
	}
	var vlans [2]uint16
	for i, m := range []reserve.Mark{k.Grant.Mark, far} {
		if _, err := fmt.Sscanf(m.Device, circuitDevice+".%d", &vlans[i]); err != nil {
			t.Fatalf("interface %q: %v", m.Device, err)
		}
	}
	k.near = c.l.mustHost(t, "site1").vlanPort(t, circuitDevice, vlans[0])
	k.far = c.l.mustHost(t, "home").vlanPort(t, circuitDevice, vlans[1])
	return k
}

// state waits until the requester knows that a circuit is in a state.
func (c *circuitTest) state(t *testing.T, k circuit, want ...reserve.State) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		g := c.ask[0].one("status", k.Grant).Grant
		if !slices.Contains(want, g.State) || g.Up != (g.State == reserve.Active) {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
}

func (c *circuitTest) one(t *testing.T) {
	const mbit = 20
	k := c.open(t, mbit*reserve.Mbit)
	id := k.Grant.Handle
	if !k.near.reaches(k.far, "first") {
		t.Fatal("nothing passes")
	}
	c.polices(t, k, mbit)

	c.circuits(t, "break", id)
	if k.near.reaches(k.far, "broken") {
		t.Error("it is broken, and passes")
	}
	c.state(t, k, reserve.Activating, reserve.Degraded)
	c.circuits(t, "mend", id)
	if !k.near.reaches(k.far, "mended") {
		t.Error("it is mended, and doesn't pass")
	}
	c.state(t, k, reserve.Active)
	c.circuits(t, "break", id, "--quiet")
	if k.near.reaches(k.far, "silent") {
		t.Error("it is broken without a word, and passes")
	}
	c.state(t, k, reserve.Active)
	c.circuits(t, "mend", id, "--quiet")

	got := c.ask[0].do(order{Do: "modify", Grants: []reserve.Grant{k.Grant}, Rate: 2 * mbit * reserve.Mbit})[0]
	if v := c.circuits(t, "list"); got.Err != "" || len(v.Circuits) != 1 || v.Circuits[0].Capacity != 2*mbit {
		t.Errorf("modified: %+v, %+v", got, v.Circuits)
	}
	k.Grant = got.Grant
	c.crash(t, k)

	c.ask[0].one("release", k.Grant)
	eventually(t, 5*time.Second, func() error {
		if v := c.circuits(t, "list"); len(v.Circuits) > 0 {
			return fmt.Errorf("%+v", v.Circuits)
		}
		return nil
	})
	if k.near.reaches(k.far, "released") {
		t.Error("it is released, and passes")
	}
}

// polices sends three times what was promised: as much comes, each way.
func (c *circuitTest) polices(t *testing.T, k circuit, mbit int) {
	t.Helper()
	for _, ends := range [][2]*vlanPort{{k.near, k.far}, {k.far, k.near}} {
		l := ends[0].overload(ends[1], 3*mbit, 300*time.Millisecond)
		least := 0.7 * float64(mbit) * float64(l.sending.Microseconds()) / 8
		most := float64(mbit)*float64((l.all+circuitBurst).Microseconds())/8 + 2*1518
		t.Logf("sent %d and got %d bytes in %v: %.2f of %d Mbit/s", l.sent, l.came, l.sending, float64(l.came)*8/float64(l.sending.Microseconds()), mbit)
		if came := float64(l.came); came < least || came > most {
			t.Errorf("%d bytes came, not between %.0f and %.0f", l.came, least, most)
		}
	}
	for _, way := range c.circuits(t, "list").Circuits[0].Ways {
		if way.Policed == 0 || way.Frames == 0 {
			t.Errorf("%+v", way)
		}
	}
}

// crash kills the provider: what it granted goes on, it knows it again when it is back, and what
// it doesn't know is removed.
func (c *circuitTest) crash(t *testing.T, k circuit) {
	t.Helper()
	c.circuits(t, "fault", "no-modify", "on")
	if v := c.circuits(t, "crash"); v.Provider.Running || v.Reservations != nil || len(v.Circuits) != 1 {
		t.Errorf("%+v", v)
	}
	if !k.near.reaches(k.far, "crashed") {
		t.Error("without the provider it doesn't pass")
	}
	lost := CrossCircuit{ID: "FL-lost", Ends: [2]VLANEnd{{"site1", 109}, {"home", 109}}, Capacity: 1}
	if _, err := askCross(t.Context(), c.l.crossSocket(), crossRequest{Connect: &lost}); err != nil {
		t.Fatal(err)
	}
	v := c.circuits(t, "restart")
	if !v.Provider.Running || len(v.Circuits) != 1 || v.Circuits[0].ID != k.Grant.Handle || !slices.Equal(v.Provider.Faults, []string{"no-modify"}) {
		t.Errorf("%+v", v)
	}
	c.circuits(t, "fault", "no-modify", "off")
	if !k.near.reaches(k.far, "restarted") {
		t.Error("with the provider back it doesn't pass")
	}
	c.state(t, k, reserve.Active)
}

// tooMany asks from two sites for twelve circuits at once to home, which has ten VLANs.
func (c *circuitTest) tooMany(t *testing.T) {
	var results [2][]outcome
	var wg sync.WaitGroup
	for i, site := range []string{"site1", "site2"} {
		var wants []reserve.Want
		for range 6 {
			wants = append(wants, c.want(site, 10*reserve.Mbit))
		}
		wg.Go(func() { results[i] = c.ask[i].do(order{Do: "hold", Wants: wants}) })
	}
	wg.Wait()
	var granted [2][]reserve.Grant
	refused := 0
	for i, all := range results {
		for _, got := range all {
			switch {
			case got.Err == "" && got.Grant.State == reserve.Held:
				granted[i] = append(granted[i], got.Grant)
			case got.Refused && got.Grant.Handle == "":
				refused++
			default:
				t.Errorf("%+v", got)
			}
		}
	}
	held := 0
	for _, r := range c.circuits(t, "list").Reservations {
		if r.Held {
			held++
		}
	}
	if n := len(granted[0]) + len(granted[1]); n != 10 || refused != 2 || held != 10 {
		t.Errorf("%d granted, %d refused, %d held", n, refused, held)
	}
	for i, grants := range granted {
		for _, got := range c.ask[i].do(order{Do: "release", Grants: grants}) {
			if got.Err != "" {
				t.Error(got.Err)
			}
		}
	}
}
