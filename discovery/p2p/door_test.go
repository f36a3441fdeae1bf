package p2p

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

func testDoor(n byte) *door {
	d, err := newDoor(testNetwork(n).ControlKey(), time.Now)
	if err != nil {
		panic(err)
	}
	return d
}

func TestDoor(t *testing.T) {
	d, b := testDoor(1), []byte("a QUIC packet")
	sealed := d.seal([]byte("in front"), doorUDP, b)
	if !bytes.HasPrefix(sealed, []byte("in front")) {
		t.Error("what was in front is gone")
	}
	sealed = sealed[len("in front"):]
	if len(sealed) != len(b)+sealOverhead || sealed[0]&0xc0 != 0xc0 || bytes.Contains(sealed, b) || bytes.Contains(sealed, d.sender[:]) {
		t.Errorf("sealed %x", sealed)
	}
	other := testDoor(1)
	var plain [sealHead]byte
	if out, ok := other.open(nil, doorUDP, sealed, &plain); !ok || !bytes.Equal(out, b) {
		t.Errorf("opened %q, %v", out, ok)
	}
	for i := range sealed {
		sealed[i] ^= 1
		if _, ok := testDoor(1).open(nil, doorUDP, sealed, &plain); ok {
			t.Errorf("opened with byte %d changed", i)
		}
		sealed[i] ^= 1
	}
	for name, x := range map[string]*door{"twice": other, "by its sender": d, "with another network's key": testDoor(2)} {
		if _, ok := x.open(nil, doorUDP, sealed, &plain); ok {
			t.Errorf("opened %s", name)
		}
	}
	as := d.seal(nil, doorUDP+1, b)
	if _, ok := testDoor(1).open(nil, doorUDP+1, as, &plain); !ok {
		t.Error("another kind can't be opened")
	}
	as[0] = doorUDP
	if _, ok := testDoor(1).open(nil, doorUDP, as, &plain); ok {
		t.Error("opened what was sealed as another kind")
	}
	if _, ok := testDoor(1).open(nil, doorUDP, sealed, &plain); !ok {
		t.Error("another member can't open it")
	}
}

// Seals differ although all that is sealed is the same.
func TestSealIsRandom(t *testing.T) {
	d := testDoor(1)
	seen := make(map[byte]int)
	for range 512 {
		for _, c := range d.seal(nil, doorUDP, nil)[1:] {
			seen[c]++
		}
	}
	// 16,384 bytes, 64 of each value in the mean; 16 are six deviations away.
	for c := range 256 {
		if n := seen[byte(c)]; n < 16 || n > 112 {
			t.Errorf("byte %#x is there %d times", c, n)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add(make([]byte, headLen))
	f.Add([]byte("sendernumbertime"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headLen {
			return
		}
		if got := parseHead(b).append(nil); !bytes.Equal(got, b[:headLen]) {
			t.Fatalf("%x comes back as %x", b[:headLen], got)
		}
	})
}

func FuzzDoor(f *testing.F) {
	d := testDoor(1)
	f.Add([]byte("hello"))
	f.Add(d.seal(nil, doorUDP, []byte("hello")))
	var plain [sealHead]byte
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok := testDoor(2).open(nil, doorUDP, b, &plain); ok {
			t.Fatal("opened what nobody sealed")
		}
		if out, ok := testDoor(1).open(nil, doorUDP, d.seal(nil, doorUDP, b), &plain); !ok || !bytes.Equal(out, b) {
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
	if n := b.door.strangers.Load(); n != 2 {
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

// A plainUDP is a UDP socket that is a plainReader, as an agent's are.
type plainUDP struct{ *net.UDPConn }

func (c plainUDP) ReadFromAddrPort(p []byte) (int, netip.AddrPort, error) {
	return c.ReadFromUDPAddrPort(p)
}

// What a stranger sends makes no garbage, however much it is.
func TestStrangersMakeNoGarbage(t *testing.T) {
	stranger := udp(t)
	a, b := newDoorConn(udp(t), testDoor(1)), newDoorConn(plainUDP{udp(t)}, testDoor(1))
	buf := make([]byte, 1452)
	noise := bytes.Repeat([]byte{0xc2}, 600)
	const each = 50
	perRead := testing.AllocsPerRun(20, func() {
		for range each {
			if _, err := stranger.WriteTo(noise, b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if n, _, err := b.ReadFrom(buf); err != nil || n != 5 {
			t.Fatalf("%d bytes, %v", n, err)
		}
	})
	if got := b.door.strangers.Load(); got < 20*each {
		t.Fatalf("%d datagrams of a stranger came", got)
	}
	if perRead > each/5 {
		t.Errorf("%v allocations for %d datagrams of a stranger's", perRead, each)
	}
}

func TestNewDoors(t *testing.T) {
	a, b := udp(t), udp(t)
	d := testDoor(1)
	if _, err := newDoors([]net.PacketConn{a, b}, d); err == nil {
		t.Error("two sockets of one family are taken")
	}
	if _, err := newDoors(nil, d); err == nil {
		t.Error("no socket is enough")
	}
	ds, err := newDoors([]net.PacketConn{a}, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ds.of("udp6"); err == nil {
		t.Error("there is a socket of the other family")
	}
}

// sealAndOpen seals and opens a datagram of QUIC's greatest length; second opens
// one by the second key. What is opened is always new: the door forgets what it
// has seen.
func sealAndOpen() map[string]func() {
	d, e, packet := testDoor(1), testDoor(1), make([]byte, 1280)
	two := testDoor(2)
	if err := two.setKeys([]Key{{Network: testNetwork(2)}, {Network: testNetwork(1)}}); err != nil {
		panic(err)
	}
	sealed := d.seal(nil, doorUDP, packet)
	buf := make([]byte, 0, sealBuffer)
	plain := new([sealHead]byte)
	open := func(e *door) func() {
		return func() {
			if _, ok := e.open(buf, doorUDP, sealed, plain); !ok {
				panic("it doesn't open")
			}
			e.fresh.seen[0] = senderSeen{sender: d.sender}
		}
	}
	return map[string]func(){"seal": func() { d.seal(buf, doorUDP, packet) }, "open": open(e), "second": open(two)}
}

func TestDoorAllocates(t *testing.T) {
	for name, f := range sealAndOpen() {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDoor(b *testing.B) {
	for name, f := range sealAndOpen() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
