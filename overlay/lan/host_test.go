//go:build linux

package lan

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"farlan/overlay"
)

// The proxy host talks to machines of the other LAN, and to the other proxy host, by either
// family; streams in super-frames.
func TestHostIsReached(t *testing.T) {
	x, y := newHomeAt(t, 1), newHomeAt(t, 17)
	for _, h := range []*home{x, y} {
		if err := h.port.Unreached(); err != nil {
			t.Fatal(err)
		}
	}
	_, refused := join(t, x, y)
	for _, to := range []string{"10.55.0.17", "10.55.0.19", "fd55::17", "fd55::19"} {
		x.proxy.Run("ping -c3 -i0.2 -W2 " + to)
	}
	y.a.Run("ping -c3 -i0.2 -W2 10.55.0.3")
	if out := x.proxy.Run("ping -c3 -i0.2 -W2 10.55.0.19"); strings.Contains(out, "DUP") {
		t.Errorf("answers come twice:\n%s", out)
	}
	for _, address := range []string{"10.55.0.19:0", "[fd55::19]:0"} {
		var l net.Listener
		var a, b net.Conn
		var err error
		y.proxy.Do(func() { l, err = net.Listen("tcp", address) })
		if err == nil {
			x.proxy.Do(func() { a, err = net.Dial("tcp", l.Addr().String()) })
		}
		if err == nil {
			b, err = l.Accept()
		}
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { transfer(t, a, b, 3_000_001) })
		both.Go(func() { transfer(t, b, a, 3_000_003) })
		both.Wait()
		_, _ = a.Close(), b.Close()
	}
	if n := refused.Load(); n != 0 {
		t.Errorf("%d frames were not taken", n)
	}
}

// What the host says to machines on its own LAN isn't captured, nor is what was handed to it;
// to groups it speaks like any other.
func TestHostIsCaptured(t *testing.T) {
	h := newHome(t)
	dial := func(to, text string) {
		t.Helper()
		var c net.Conn
		var err error
		h.proxy.Do(func() { c, err = net.Dial("udp", to+":9") })
		if err == nil {
			_, err = c.Write([]byte(text))
			_ = c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	heard := func() (all []byte) {
		b := overlay.NewBatch()
		for range 50 {
			for q := range 2 {
				if err := h.port.Read(q, b); err != nil {
					t.Fatal(err)
				}
				for _, f := range b.Frames() {
					all = append(all, f.Head...)
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		return all
	}
	dial("10.55.0.1", "to a neighbour")
	dial("10.55.0.255", "to all")
	h.port.Write(0, []overlay.Frame{{Head: udpFrame("from afar to all", overlay.Broadcast[:], 0)}})
	all := heard()
	if bytes.Contains(all, []byte("to a neighbour")) || bytes.Contains(all, []byte("from afar")) {
		t.Error("captured what it says to its neighbours, or what it was handed")
	}
	if !bytes.Contains(all, []byte("to all")) {
		t.Error("didn't capture what it says to all")
	}

	// To a far station it speaks as soon as that has said something to it.
	h.proxy.IP("neigh replace 10.55.0.77 lladdr 02:00:00:00:00:77 dev v0")
	dial("10.55.0.77", "to a stranger")
	h.port.Write(0, []overlay.Frame{{Head: udpFrame("hello", mac(3), 0)}})
	dial("10.55.0.77", "to a friend")
	if all := heard(); bytes.Contains(all, []byte("to a stranger")) || !bytes.Contains(all, []byte("to a friend")) {
		t.Error("captured what it says to a station that isn't far, or not what it says to one that is")
	}
	for i := range 2 * maxFriends {
		f := udpFrame("hello", mac(3), 0)
		f[11] = byte(i)
		h.port.Write(0, []overlay.Frame{{Head: f}})
	}
	if n := len(h.port.host.order); n != maxFriends {
		t.Errorf("%d friends", n)
	}
}

// Nothing is left on the host when the port is closed.
func TestHostIsLeftAlone(t *testing.T) {
	h := newHome(t)
	before := h.proxy.IP("-o addr show dev v0") + h.proxy.IP("route show")
	if !strings.Contains(h.proxy.IP("-o link"), "fl-host") {
		t.Error("there is no TAP")
	}
	_ = h.port.Close()
	if links := h.proxy.IP("-o link"); strings.Contains(links, "fl-host") {
		t.Errorf("its TAP is left: %s", links)
	}
	if after := h.proxy.IP("-o addr show dev v0") + h.proxy.IP("route show"); after != before {
		t.Errorf("%s became %s", before, after)
	}
}
