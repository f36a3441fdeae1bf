package p2p

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

func testDoor(n byte) door {
	d, err := newDoor(testNetwork(n).ControlKey())
	if err != nil {
		panic(err)
	}
	return d
}

func TestDoor(t *testing.T) {
	d, b := testDoor(1), []byte("a QUIC packet")
	sealed := d.seal([]byte("in front"), [24]byte{1, 2, 3}, b)
	if !bytes.HasPrefix(sealed, []byte("in front")) {
		t.Error("what was in front is gone")
	}
	sealed = sealed[len("in front"):]
	if len(sealed) != len(b)+doorOverhead || sealed[0]&0xc0 != 0xc0 || bytes.Contains(sealed, b) {
		t.Errorf("sealed %x", sealed)
	}
	if out, ok := d.open(nil, sealed); !ok || !bytes.Equal(out, b) {
		t.Errorf("opened %q, %v", out, ok)
	}
	for i := range sealed {
		sealed[i] ^= 1
		if _, ok := d.open(nil, sealed); ok {
			t.Errorf("opened with byte %d changed", i)
		}
		sealed[i] ^= 1
	}
	if _, ok := testDoor(2).open(nil, sealed); ok {
		t.Error("opened with another network's key")
	}
}

func FuzzDoor(f *testing.F) {
	d := testDoor(1)
	f.Add([]byte("hello"))
	f.Add(d.seal(nil, [24]byte{1}, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok := d.open(nil, b); ok && !bytes.Equal(b, d.seal(nil, [24]byte{1}, []byte("hello"))) {
			t.Fatal("opened what nobody sealed")
		}
		if out, ok := d.open(nil, d.seal(nil, [24]byte{2}, b)); !ok || !bytes.Equal(out, b) {
			t.Fatal("what was sealed doesn't open")
		}
	})
}

func udp(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestDoorConn(t *testing.T) {
	stranger, plain := udp(t), udp(t)
	a, b := newDoorConn(udp(t), testDoor(1)), newDoorConn(plain, testDoor(1))
	long := bytes.Repeat([]byte{7}, 1452) // the longest that quic-go makes
	for _, send := range []func() (int, error){
		func() (int, error) { return stranger.WriteTo([]byte{0xc0, 1, 2}, b.LocalAddr()) },
		func() (int, error) { return a.WriteTo([]byte("hello"), b.LocalAddr()) },
		func() (int, error) { return a.WriteTo(make([]byte, 1453), b.LocalAddr()) }, // doesn't fit below
		func() (int, error) { return a.WriteTo(long, b.LocalAddr()) },
	} {
		if _, err := send(); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 1452)
	for _, want := range [][]byte{[]byte("hello"), long} {
		n, from, err := b.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], want) || from.String() != a.LocalAddr().String() {
			t.Errorf("read %x from %v, %v", buf[:n], from, err)
		}
	}
	if n := b.dropped.Load(); n != 2 {
		t.Errorf("%d are dropped, want 2", n)
	}
	// Deadlines and the end reach through.
	if err := b.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = b.Close()
	if _, _, err := b.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestNewDoors(t *testing.T) {
	a, b := udp(t), udp(t)
	key := testNetwork(1).ControlKey()
	if _, err := newDoors([]net.PacketConn{a, b}, key); err == nil {
		t.Error("two sockets of one family are taken")
	}
	if _, err := newDoors(nil, key); err == nil {
		t.Error("no socket is enough")
	}
	ds, err := newDoors([]net.PacketConn{a}, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ds.of("udp6"); err == nil {
		t.Error("there is a socket of the other family")
	}
}

// The buffers are reused: what is left are XChaCha's own few hundred bytes.
func BenchmarkDoor(b *testing.B) {
	d, packet := testDoor(1), make([]byte, 1280)
	sealed := d.seal(nil, [24]byte{}, packet)
	buf := make([]byte, 0, doorBuffer)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d.seal(buf, [24]byte{}, packet)
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d.open(buf, sealed)
		}
	})
}
