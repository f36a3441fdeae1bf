package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// newNATBed returns a running emulator of a lab's sites, which are just their
// interfaces, behind NATs; no path delays.
func newNATBed(t *testing.T, sites int, texts ...string) bed {
	t.Helper()
	needRoot(t)
	o := DefaultOptions(labName())
	o.Sites, o.NATs, o.Shape = sites, nats(t, texts...), Shape{Queue: Queue{Time: DefaultQueue}}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	return startBed(t, wideArea(o, plan(o)))
}

// A socket is a UDP socket at a site of a bed.
type socket struct {
	*net.UDPConn
	t    *testing.T
	b    bed
	site int
}

// socket opens a UDP socket at a site's address, on a port or any.
func (b bed) socket(t *testing.T, site int, port uint16) socket {
	t.Helper()
	s := socket{t: t, b: b, site: site}
	err := inNamespace(b.namespace(site), func() (err error) {
		at := netip.AddrPortFrom(b.sites[site].Prefixes[0].Addr(), port)
		s.UDPConn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (s socket) addr() netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s socket) send(to netip.AddrPort) {
	s.t.Helper()
	if _, err := s.WriteToUDPAddrPort([]byte("from "+s.addr().String()), to); err != nil {
		s.t.Fatal(err)
	}
}

// receive returns who sent the next datagram.
func (s socket) receive() netip.AddrPort {
	s.t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 100)
	_, from, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		s.t.Fatalf("site%d hears nothing: %v", s.site, err)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// seenBy sends to a socket and returns from where that seems to come: what a
// STUN binding request finds out.
func (s socket) seenBy(server socket) netip.AddrPort {
	s.t.Helper()
	s.send(server.addr())
	return server.receive()
}

// ends returns how many packets from outside all NATs have let in, and how many
// dropped.
func (b bed) ends() (in, dropped uint64) {
	for _, n := range b.Status().NATs {
		in += n.In
		dropped += n.Dropped["unmapped"] + n.Dropped["filtered"]
	}
	return in, dropped
}

// reaches sends to an endpoint behind one NAT and waits until that has let the
// packet in, which to must then get, or has dropped it.
func (s socket) reaches(at netip.AddrPort, to socket) bool {
	s.t.Helper()
	in, dropped := s.b.ends()
	s.send(at)
	var passed bool
	eventually(s.t, 10*time.Second, func() error {
		in2, dropped2 := s.b.ends()
		if passed = in2 > in; passed || dropped2 > dropped {
			return nil
		}
		return errors.New("the NAT has not seen the packet")
	})
	if passed {
		to.receive()
	}
	return passed
}

// A natClass is what can be seen of a NAT from outside.
type natClass struct{ mapping, filtering, port string }

// classify finds out what is in front of a site, with two servers of two ports
// each, as RFC 5780 section 4 describes it.
func (b bed) classify(t *testing.T, site, serverA, serverB int) natClass {
	t.Helper()
	const independent, address, port = "endpoint-independent", "address-dependent", "address-and-port-dependent"
	a1, a2 := b.socket(t, serverA, 0), b.socket(t, serverA, 0)
	b1 := b.socket(t, serverB, 0)
	client := b.socket(t, site, 0)
	class := natClass{port, port, "changed"}
	seen := client.seenBy(a1)
	switch { // what a1 alone was sent to lets in
	case b1.reaches(seen, client):
		class.filtering = independent
	case a2.reaches(seen, client):
		class.filtering = address
	}
	if !a1.reaches(seen, client) {
		t.Errorf("an answer did not come back to %v", seen)
	}
	switch {
	case client.seenBy(b1) == seen:
		class.mapping = independent
	case client.seenBy(a2) == seen:
		class.mapping = address
	}
	if seen.Port() == client.addr().Port() {
		class.port = "preserved"
	}
	if seen == client.addr() {
		class.port = "none translated"
	}
	return class
}

// TestNATClassified lets real sockets find out the kind of each NAT.
func TestNATClassified(t *testing.T) {
	t.Parallel()
	const independent, address, port = "endpoint-independent", "address-dependent", "address-and-port-dependent"
	kinds := []struct {
		nat  string
		want natClass
	}{
		{"full-cone", natClass{independent, independent, "preserved"}},
		{"restricted", natClass{independent, address, "preserved"}},
		{"port-restricted", natClass{independent, port, "preserved"}},
		{"symmetric", natClass{port, port, "changed"}},
		{"symmetric,cgn", natClass{port, port, "changed"}},
		{"port-restricted,random", natClass{independent, port, "changed"}},
		{"firewall", natClass{independent, port, "none translated"}},
	}
	var texts []string
	for i, k := range kinds {
		texts = append(texts, siteName(i+2)+"="+k.nat)
	}
	// A carrier with a home router behind it looks like the stricter of both.
	nested := len(kinds) + 2
	texts = append(texts, "isp=symmetric,cgn", siteName(nested)+"=full-cone,behind=isp")
	b := newNATBed(t, nested+1, texts...)
	for i, k := range kinds {
		if got := b.classify(t, i+2, 0, 1); got != k.want {
			t.Errorf("%s is taken for %+v", k.nat, got)
		}
	}
	if got := b.classify(t, nested, 0, 1); got != (natClass{port, port, "changed"}) {
		t.Errorf("a full cone behind a carrier's symmetric NAT is taken for %+v", got)
	}
}

// TestNATNested sends through a home router behind a carrier's NAT, and back.
func TestNATNested(t *testing.T) {
	t.Parallel()
	b := newNATBed(t, 4, "isp=symmetric,cgn", "site1=full-cone,behind=isp", "site2=none,behind=isp")
	client, neighbour := b.socket(t, 1, 4747), b.socket(t, 2, 4747)
	server, other := b.socket(t, 3, 1000), b.socket(t, 3, 2000)
	seen := client.seenBy(server)
	if seen.Addr() != b.gates[0].Addresses[0] {
		t.Errorf("the client seems to be at %v", seen)
	}
	server.send(seen)
	if from := client.receive(); from != server.addr() {
		t.Errorf("the answer came from %v", from)
	}
	if client.seenBy(other) == seen {
		t.Error("the carrier's NAT is not symmetric")
	}
	if from := client.seenBy(neighbour); from != netip.AddrPortFrom(b.gates[1].Addresses[0], 4747) {
		t.Errorf("in the carrier's network the client seems to be at %v", from)
	}
}

// TestNATShared has two sites behind one NAT, with and without hairpinning, that
// punch holes to each other's public endpoints.
func TestNATShared(t *testing.T) {
	t.Parallel()
	for _, hairpin := range []bool{true, false} {
		options := ",group=g"
		if hairpin {
			options += ",hairpin"
		}
		b := newNATBed(t, 4, "site1=port-restricted"+options, "site2=port-restricted"+options)
		one, two, server := b.socket(t, 1, 4747), b.socket(t, 2, 4747), b.socket(t, 3, 4747)
		seen1, seen2 := one.seenBy(server), two.seenBy(server)
		if seen1.Addr() != seen2.Addr() || seen1 == seen2 {
			t.Errorf("behind one NAT: %v and %v", seen1, seen2)
		}
		one.send(seen2) // opens the way, and may be dropped itself
		two.send(seen1)
		if hairpin {
			if from := one.receive(); from != seen2 {
				t.Errorf("the answer around the hairpin came from %v, not %v", from, seen2)
			}
		} else {
			eventually(t, 10*time.Second, func() error {
				if n := b.Status().NATs[0].Dropped["no-hairpin"]; n != 2 {
					return fmt.Errorf("%d packets are counted as dropped", n)
				}
				return nil
			})
		}
		one.send(two.addr())
		if from := two.receive(); from != one.addr() {
			t.Errorf("on their own network from %v", from)
		}
	}
}

// TestNATTCPOnly lets TCP out of a site, and no UDP, and nothing in.
func TestNATTCPOnly(t *testing.T) {
	t.Parallel()
	b := newNATBed(t, 3, "site1=tcp-only")
	if rate := b.tcp(t, 1, 2, 1<<20); rate == 0 {
		t.Error("TCP doesn't pass")
	}
	client, server := b.socket(t, 1, 4747), b.socket(t, 2, 4747)
	client.send(server.addr())
	server.send(netip.AddrPortFrom(b.gates[0].Addresses[0], 4747))
	eventually(t, 10*time.Second, func() error {
		if n := b.Status().NATs[0].Dropped["blocked"]; n != 2 {
			return fmt.Errorf("%d packets are counted as blocked", n)
		}
		return nil
	})
	h := Host{Name: "site1", Namespace: b.namespace(1)}
	if p, err := h.ping(within(t, 20*time.Second), server.addr().Addr(), 1, 10*ms); err != nil || p.Received != 0 {
		t.Errorf("ping: %v, %v", p, err)
	}
}

// TestNATErrorsAndFragments asks the kernels: a socket hears that nobody listens,
// and fragments come together, behind a NAT.
func TestNATErrorsAndFragments(t *testing.T) {
	b := newNATBed(t, 3, "site1=symmetric")
	client := b.socket(t, 1, 0)
	conn, err := dialFrom(b, 1, netip.AddrPortFrom(b.sites[2].Prefixes[0].Addr(), 9))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err = conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err = conn.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	if _, err = conn.Read(make([]byte, 10)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a datagram to a closed port: %v", err)
	}
	// 4000 bytes go in three fragments, all of which must pass, both ways.
	server := b.socket(t, 2, 4747)
	long := make([]byte, 4000)
	if _, err = client.WriteToUDPAddrPort(long, server.addr()); err != nil {
		t.Fatal(err)
	}
	if _, err = server.WriteToUDPAddrPort(long, server.receive()); err != nil {
		t.Fatal(err)
	}
	if from := client.receive(); from != server.addr() {
		t.Errorf("the fragments' answer came from %v", from)
	}
}

// dialFrom returns a connected UDP socket at a site.
func dialFrom(b bed, site int, to netip.AddrPort) (conn *net.UDPConn, err error) {
	err = inNamespace(b.namespace(site), func() (err error) {
		conn, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	return conn, err
}

// TestNATLab builds a lab with NATs and goes through what people do with them.
func TestNATLab(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.NATs = nats(t, "site1=port-restricted,hairpin")
	l := up(t, o)
	vm := l.mustHost(t, "site1-vm1")
	if err := vm.reach(within(t, 20*time.Second), hostAIP); err != nil {
		t.Fatalf("site1-vm1 does not reach home: %v", err)
	}
	if site1 := l.mustHost(t, "site1"); site1.WAN.String() != "192.168.100.2" {
		t.Errorf("site1 is at %v", site1.WAN)
	}
	var r report
	if err := json.Unmarshal([]byte(output(t, o, "status", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	n := r.NATs[0]
	if len(r.NATs) != 1 || n.Name != "site1" || n.Kind != NATPortRestricted || or(n.Address) != "30.99.1.1" || or(n.Mappings) == "0" {
		t.Errorf("status: %+v", r.NATs)
	}
	if s := output(t, o, "status"); !strings.Contains(s, "port-restricted,hairpin") {
		t.Errorf("status says:\n%s", s)
	}
	var w struct {
		NATs []natJSON `json:"nats"`
	}
	if err := json.Unmarshal([]byte(output(t, o, "wan", "--forget-nat", "site1", "--new-address", "site1", "--json")), &w); err != nil {
		t.Fatal(err)
	}
	if len(w.NATs) != 1 || or(w.NATs[0].Address) != "30.99.1.2" || w.NATs[0].Out == 0 {
		t.Errorf("wan: %+v", w.NATs)
	}
	if s := output(t, o, "wan"); !strings.Contains(s, "30.99.1.2") {
		t.Errorf("wan says:\n%s", s)
	}
	for _, wrong := range [][]string{{"--forget-nat", "site2"}, {"--new-address", "nowhere"}} {
		if err := command(t.Context(), o, "wan", wrong...).Run(); err == nil {
			t.Errorf("lab wan %v succeeds", wrong)
		}
	}
	// The site has another address now, and nobody's packets get in before its
	// own have gone out.
	if err := vm.reach(within(t, 20*time.Second), hostAIP); err != nil {
		t.Errorf("site1-vm1 does not reach home any more: %v", err)
	}
}

// TestNATUsage asks for what can't be.
func TestNATUsage(t *testing.T) {
	o := testOptions(t)
	for wrong, says := range map[string]string{
		"site1=cone": "port-restricted", "sit1=symmetric": `"sit1"`, "site1=none,hairpin": "no option but behind",
	} {
		out, err := command(context.Background(), o, "up", "--nat", wrong).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), says) {
			t.Errorf("--nat %s: %v, %s", wrong, err, out)
		}
	}
}

// TestNATPairs: whatever stands in front of two sites, their agents reach each
// other directly if the port of one side is the same for all.
func TestNATPairs(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	kinds := []string{"port-restricted", "restricted", "symmetric", "firewall"}
	o.Sites = 1 + len(kinds)
	texts := []string{"home=none"}
	for i, kind := range kinds {
		texts = append(texts, fmt.Sprintf("%s=%s", siteName(i+1), kind))
	}
	o.NATs = nats(t, texts...)
	l := up(t, o)
	start := time.Now()
	for i, a := range kinds {
		for j, b := range kinds {
			if i == j {
				continue
			}
			want, at, to := "direct", siteName(i+1), siteName(j+1)
			err := poll(within(t, 20*time.Second), 100*time.Millisecond, func() error {
				peers, err := l.peers(t.Context(), at)
				if err != nil {
					return err
				}
				for _, p := range peers {
					if p.Name == to && p.State == "up" && p.Path == want {
						return nil
					}
				}
				return fmt.Errorf("not %s: %+v", want, peers)
			})
			if err != nil {
				t.Errorf("%s behind %s to %s behind %s: %v", at, a, to, b, err)
			}
		}
	}
	t.Logf("all reach each other after %v", time.Since(start).Round(100*time.Millisecond))
	vm := l.mustHost(t, "site1-vm1")
	lease, err := l.leaseOf(l.mustHost(t, "site3-vm1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.reach(within(t, 10*time.Second), lease.Address); err != nil {
		t.Errorf("from behind %s to behind %s: %v", kinds[0], kinds[2], err)
	}
}
