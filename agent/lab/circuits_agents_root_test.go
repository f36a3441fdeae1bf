package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// longestGap is how long frames may take to go the ordinary way when their circuit carries
// nothing. As a rule half a second and two looks do (measure.Cut); a busy machine's agents look
// later, and begin anew then. It is what TestCut grants the worst cut of a link.
const longestGap = 6 * time.Second

// An agentsTest is a lab whose agents ask for circuits.
type agentsTest struct {
	*circuitTest
}

// agentsLab builds one of so many sites, each with a virtual machine.
func agentsLab(t *testing.T, sites int, change func(*Options)) *agentsTest {
	c := &circuitTest{o: testOptions(t)}
	c.o.Sites, c.o.VMs, c.o.Circuits = sites, 1, true
	c.o.Shape = Shape{Delay: time.Millisecond, Queue: Queue{Time: DefaultQueue}}
	if change != nil {
		change(&c.o)
	}
	c.l = up(t, c.o)
	t.Cleanup(func() {
		if t.Failed() {
			c.l.logs(t, providerProcess, agentName("site1"), agentName("site2"))
		}
	})
	return &agentsTest{c}
}

// logs shows the last that processes have said.
func (l *Lab) logs(t *testing.T, names ...string) {
	for _, name := range names {
		b, _ := os.ReadFile(l.path(name + ".log")) // there may be none
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s:\n%s", name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// A reservedSegment is what the tests read of each line of `farlan reserve list --json`.
type reservedSegment struct {
	ID      string  `json:"id"`
	State   string  `json:"state"`
	Kind    *string `json:"kind"`
	Driver  *string `json:"driver"`
	Reason  string  `json:"reason"`
	Segment struct {
		From, To *string
		State    string
	} `json:"segment"`
	Coordinator *string `json:"coordinator"`
}

func (r reservedSegment) circuit() bool { return r.Driver != nil && *r.Driver == "nsi" }

func (r reservedSegment) over() bool {
	return slices.Contains([]string{"released", "rejected", "lost"}, r.Segment.State)
}

// reserved returns what an agent lists.
func (c *agentsTest) reserved(t *testing.T, site string) (all []reservedSegment, err error) {
	b, err := c.l.farlan(t.Context(), site, "reserve", "list", "--json")
	if err != nil {
		return nil, err
	}
	var v struct{ Reservations []reservedSegment }
	err = json.Unmarshal(b, &v)
	return v.Reservations, err
}

// request has a site's agent ask for a circuit to another, and returns the reservation's id.
func (c *agentsTest) request(t *testing.T, from, to, rate, forTime string, more ...string) (id string, err error) {
	args := append([]string{"reserve", "request", "self", to, "--rate", rate, "--for", forTime, "--circuit"}, more...)
	b, err := c.l.farlan(t.Context(), from, args...)
	return strings.TrimSpace(string(b)), err
}

func (c *agentsTest) mustRequest(t *testing.T, from, to, rate, forTime string, more ...string) (id string) {
	t.Helper()
	id, err := c.request(t, from, to, rate, forTime, more...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// releases gives a reservation back.
func (c *agentsTest) releases(t *testing.T, site, id string) {
	t.Helper()
	if _, err := c.l.farlan(t.Context(), site, "reserve", "release", id); err != nil {
		t.Fatal(err)
	}
}

// becomes waits until a site's agent says that a reservation is in one of some states, and returns
// why it is and how long that took.
func (c *agentsTest) becomes(t *testing.T, site, id string, within time.Duration, want ...string) (reason string, took time.Duration) {
	t.Helper()
	began := time.Now()
	eventually(t, within, func() error {
		all, err := c.reserved(t, site)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.ID == id && slices.Contains(want, r.State) {
				reason = r.Reason
				return nil
			}
		}
		return fmt.Errorf("%s isn't %s: %+v", id, strings.Join(want, " or "), all)
	})
	return reason, time.Since(began).Round(10 * time.Millisecond)
}

// carried returns what circuits have carried from their first ends, and the newest of them.
func (c *agentsTest) carried(t *testing.T) (id string, way CrossWay) {
	t.Helper()
	v, err := c.l.circuits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range v.Circuits { // by their names, which are counted
		id = k.ID
		way.Frames += k.Ways[0].Frames
		way.Broken += k.Ways[0].Broken
	}
	return id, way
}

// ordinary returns how many packets a site has sent by the ordinary wide area, whoever passes
// them on there.
func (c *agentsTest) ordinary(t *testing.T, from string) (packets uint64) {
	t.Helper()
	s, err := ask(t.Context(), c.l.wanSocket(), controlRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Paths {
		if p.From == from {
			packets += p.Packets
		}
	}
	return packets
}

// sever breaks a circuit, or mends it.
func (c *agentsTest) sever(t *testing.T, id string, whole, quiet bool) {
	t.Helper()
	r := providerRequest{Break: id, Quiet: quiet}
	if whole {
		r.Break, r.Mend = "", id
	}
	if _, err := c.l.askProvider(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// flow begins a steady one between the machines of two sites.
func (c *agentsTest) flow(t *testing.T, from, to string) *datagrams {
	t.Helper()
	far := c.l.mustHost(t, to+"-vm1")
	lease, err := c.l.leaseOf(far)
	if err != nil {
		t.Fatal(err)
	}
	f := c.l.mustHost(t, from+"-vm1").sends(t, far, lease.Address)
	eventually(t, 10*time.Second, func() error {
		if _, came := f.counts(); came == 0 {
			return fmt.Errorf("nothing comes from %s to %s", from, to)
		}
		return nil
	})
	return f
}

// goesBy waits until a flow takes the circuit, or the ordinary way, and nearly nothing of it the
// other; probes go by both.
func (c *agentsTest) goesBy(t *testing.T, f *datagrams, circuit bool) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		_, before := c.carried(t)
		packets := c.ordinary(t, "site1")
		sent, came := f.counts()
		time.Sleep(400 * time.Millisecond)
		_, after := c.carried(t)
		packets = c.ordinary(t, "site1") - packets
		sent2, came2 := f.counts()
		inCircuit, tried := int(after.Frames-before.Frames), int(after.Broken-before.Broken)
		sent, came = sent2-sent, came2-came
		most, least := int(packets), inCircuit
		if !circuit {
			most, least = inCircuit+tried, int(packets)
		}
		if least < sent*9/10 || most > sent/4 || came < sent*9/10 {
			return fmt.Errorf("circuit: %v; of %d datagrams %d came, %d frames by the circuit, %d lost there, %d packets by the ordinary way", circuit, sent, came, inCircuit, tried, packets)
		}
		return nil
	})
}

// TestAgentsCircuit: an agent's circuit appears in the wide area and takes the frames that it is
// for; they go the ordinary way while it carries nothing, whether its provider says so or not,
// and by it again when it is mended; given back it is gone at both ends.
func TestAgentsCircuit(t *testing.T) {
	t.Parallel()
	c := agentsLab(t, 3, nil)
	f := c.flow(t, "site1", "site2")
	id := c.mustRequest(t, "site1", "site2", "20Mbit", "5m", "--wait")
	c.goesBy(t, f, true)
	c.unseen(t)
	for _, quiet := range []bool{true, false} {
		circuit, _ := c.carried(t)
		began := time.Now()
		c.sever(t, circuit, false, quiet)
		c.goesBy(t, f, false)
		gap := f.gap(began)
		reason, took := c.becomes(t, "site1", id, 25*time.Second, "degraded")
		t.Logf("broken (quiet: %v): nothing came for %v, degraded after %v: %s", quiet, gap, took, reason)
		if gap > longestGap {
			t.Errorf("broken (quiet: %v): nothing came for %v", quiet, gap)
		}
		began = time.Now()
		c.sever(t, circuit, true, quiet)
		_, took = c.becomes(t, "site1", id, 25*time.Second, "active")
		c.goesBy(t, f, true)
		if gap = f.gap(began); gap > longestGap {
			t.Errorf("mended (quiet: %v): nothing came for %v", quiet, gap)
		}
		t.Logf("mended (quiet: %v): active after %v, nothing came for %v", quiet, took, gap)
	}
	c.unseen(t)
	began := time.Now()
	c.releases(t, "site1", id)
	c.nothing(t, 10*time.Second)
	t.Logf("given back: nothing left after %v, nothing came for %v", time.Since(began).Round(10*time.Millisecond), f.gap(began))
	if gap := f.gap(began); gap > longestGap {
		t.Errorf("released: nothing came for %v", gap)
	}
}

// unseen checks that no agent shows an address of circuits for anybody's.
func (c *agentsTest) unseen(t *testing.T) {
	t.Helper()
	prefix := strings.TrimSuffix(circuitSubnet, "0.0/16")
	for _, h := range c.l.agentHosts() {
		for _, verb := range []string{"status", "peers", "links"} {
			b, err := c.l.farlan(t.Context(), h.Site, verb, "--json")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), prefix) {
				t.Errorf("%s: %s shows an address of a circuit: %s", h.Site, verb, b)
			}
		}
	}
}

// nothing waits until nothing is left of any circuit: at the provider, in the wide area, and at all
// ends of interfaces and of classes of traffic.
func (c *agentsTest) nothing(t *testing.T, within time.Duration) {
	t.Helper()
	eventually(t, within, func() error {
		v, err := c.l.circuits(t.Context())
		if err != nil {
			return err
		}
		for _, r := range v.Reservations {
			if r.Held {
				return fmt.Errorf("held by the provider: %+v", *r)
			}
		}
		if len(v.Circuits) > 0 {
			return fmt.Errorf("carried: %+v", v.Circuits)
		}
		for _, h := range c.l.agentHosts() {
			if vlans, classes, err := c.ends(t, h); err != nil || len(vlans) > 0 || classes > 0 {
				return fmt.Errorf("%s: interfaces %v, %d classes, %w", h.Name, vlans, classes, err)
			}
		}
		return nil
	})
}

// ends returns which VLANs of circuits there are on a host, and how many classes of traffic.
func (c *agentsTest) ends(t *testing.T, h Host) (vlans []uint16, classes int, err error) {
	out, err := h.run(t.Context(), "ip", "-o", "-br", "link")
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(string(out)) {
		var vlan uint16
		if _, err := fmt.Sscanf(line, circuitDevice+".%d", &vlan); err == nil {
			vlans = append(vlans, vlan)
		}
	}
	out, err = h.run(t.Context(), "tc", "class", "show", "dev", circuitDevice)
	return vlans, strings.Count(string(out), "\n"), err
}
