package nat

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

// FuzzNAT sends any bytes through a NAT of any kind: it never panics, out and in
// and out again is the identity for addresses, ports and payload, and checksums
// are as right or as wrong as they were.
func FuzzNAT(f *testing.F) {
	for _, b := range [][]byte{
		udp(alice, a1, "payload"), tcp(alice, a1, "payload"), echo(echoRequest, alice, "30.99.2.1:0", "payload"),
		icmpError(unreachable, 4, "30.99.9.9", public, udp(public+":4747", a1, "x"), 28),
		{0x46},
		nil,
	} {
		f.Add(uint8(0), b)
		f.Add(uint8(5), b)
	}
	first, _ := cut(udp(alice, a1, "fragments of a packet"), 16)
	f.Add(uint8(2), first)
	kinds := []Config{fullCone, restricted, portRestricted, symmetric, firewall, tcpOnly}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		n := newBench(t, kinds[int(kind)%len(kinds)])
		n.Inbound(n.now, bytes.Clone(b))
		n.Hairpin(n.now, bytes.Clone(b), n.rnd)
		n.Config.Hairpin = true
		n.Hairpin(n.now, bytes.Clone(b), n.rnd)
		n.Forget()
		out := bytes.Clone(b)
		if n.Outbound(n.now, out, n.rnd) != Passed {
			if !bytes.Equal(out, b) {
				t.Errorf("% x was dropped, and changed to % x", b, out)
			}
			return
		}
		sameBut(t, b, out)
		p, _ := parse(b)
		if p.later() || p.isError() {
			t.Fatalf("passed without a mapping: % x", b)
		}
		checkRound(t, n, b, out)
	})
}

// checkRound answers a packet, b before and out after its way out, and sends it
// again.
func checkRound(t *testing.T, n *bench, b, out []byte) {
	back, inside := swap(out), swap(b)
	if drop := n.Inbound(n.now, back); drop != Passed {
		t.Fatalf("the answer to % x: %v", b, drop)
	}
	if !bytes.Equal(endpoints(back), endpoints(inside)) {
		t.Errorf("the answer to % x is % x", inside, back)
	}
	again := swap(back)
	n.after(time.Second)
	if drop := n.Outbound(n.now, again, n.rnd); drop != Passed || !bytes.Equal(endpoints(again), endpoints(out)) {
		t.Errorf("%v: out % x, and again % x", drop, out, again)
	}
	sameBut(t, b, again)
	p, _ := parse(out)
	e := icmpError(timeExceeded, 0, "30.99.9.9", p.addr(source).String(), out[:len(p.b)], p.header+8)
	if drop := n.Inbound(n.now, e); drop != Passed || !bytes.Equal(endpoints(e[28:]), endpoints(b)) {
		t.Errorf("%v: error about % x is % x", drop, b, e)
	}
	mustBeRight(t, e)
}

// sameBut complains if anything differs between a packet before and after
// translation but addresses, ports and checksums, or these are not as wrong as
// they were.
func sameBut(t *testing.T, before, after []byte) {
	t.Helper()
	if !bytes.Equal(blank(before), blank(after)) {
		t.Errorf("% x became % x", before, after)
	}
	h, s := residues(before)
	if h2, s2 := residues(after); h != h2 || s != s2 {
		t.Errorf("checksums were wrong by %#x, %#x and are by %#x, %#x: % x, % x", h, s, h2, s2, before, after)
	}
}

// blank returns a packet without addresses, ports and checksums, but whether
// UDP's is there.
func blank(b []byte) []byte {
	p, _ := parse(bytes.Clone(b))
	if at := p.sumAt(); at > 0 {
		binary.BigEndian.PutUint16(p.b[at:], 1)
	}
	clear(p.b[10:20])
	clear(p.b[p.portAt(source):][:2])
	clear(p.b[p.portAt(destination):][:2])
	return append(p.b, b[len(p.b):]...)
}

// endpoints returns a packet's addresses and ports, or identifier.
func endpoints(b []byte) []byte {
	p, _ := parseHeader(b)
	all := append([]byte(nil), b[12:20]...)
	all = append(all, b[p.portAt(source):][:2]...)
	return append(all, b[p.portAt(destination):][:2]...)
}

// swap returns the packet with source and destination changed round; a request
// becomes a reply, and that a request.
func swap(b []byte) []byte {
	c := bytes.Clone(b)
	p, _ := parse(c)
	copy(c[12:], b[16:20])
	copy(c[16:], b[12:16])
	if p.protocol() == protoICMP {
		c[p.header] = echoRequest - c[p.header]
		var d delta
		was := binary.BigEndian.Uint16(b[p.header:])
		d += delta(^was) + delta(p.word(p.header))
		binary.BigEndian.PutUint16(c[p.header+2:], d.applied(p.word(p.header+2)))
		return c
	}
	copy(c[p.header:], b[p.header+2:p.header+4])
	copy(c[p.header+2:], b[p.header:p.header+2])
	return c
}
