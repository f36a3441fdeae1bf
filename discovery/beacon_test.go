package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"farlan/overlay"
)

// beaconAgent returns the id of agent n.
func beaconAgent(n byte) overlay.AgentID { return overlay.AgentID{31: n} }

// testBeacon returns a beacon of agent n.
func testBeacon(n byte, addrs ...string) Beacon {
	b := Beacon{Agent: beaconAgent(n), Session: 0x0102030405060708 + uint64(n)}
	for _, a := range addrs {
		b.Addrs = append(b.Addrs, netip.MustParseAddrPort(a))
	}
	return b
}

const beaconTime = overlay.Instant(1_800_000_000 * int64(time.Second))

// What a beacon is must never change: agents of different versions meet by it. The
// sum is that of a datagram which another implementation made.
func TestBeaconIsWhatItWas(t *testing.T) {
	b := testBeacon(1, "192.0.2.1:4747", "[2001:db8::1]:4748")
	b.Ask = true
	var nonce [beaconNonceLen]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	d, err := NewBeaconSeal(testKey(7)).Seal(beaconTime, nonce, b)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(d)
	const want = "99ca58cb4058090be4ecdb8a7cb9afbbf25ac8286f87b011312f8165e28053f9"
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("%s, want %s: %x", got, want, d)
	}
	got, err := NewBeaconSeal(testKey(7)).Open(beaconTime, d)
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("%+v comes back as %+v, %v", b, got, err)
	}
}

// Whatever a beacon says, it has one length, and no two have any bytes in common
// that chance doesn't explain.
func TestBeaconsTellNothing(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	seal := NewBeaconSeal(testKey(7))
	all := make([]string, 8)
	for i := range all {
		all[i] = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 4747).String()
	}
	counts := make([]map[byte]int, BeaconLen)
	const n = 512
	for i := range n {
		var nonce [beaconNonceLen]byte
		_, _ = r.Read(nonce[:])
		b := testBeacon(1, all[:i%2*len(all)]...)
		b.Ask = i%3 == 0
		d, err := seal.Seal(beaconTime, nonce, b)
		if err != nil || len(d) != BeaconLen {
			t.Fatalf("%d bytes, %v", len(d), err)
		}
		for at, x := range d {
			if counts[at] == nil {
				counts[at] = make(map[byte]int)
			}
			counts[at][x]++
		}
	}
	for at, c := range counts {
		for x, times := range c {
			if times > 20 { // of 2 on average: once in 10^14
				t.Errorf("byte %d is %#x in %d of %d beacons", at, x, times, n)
			}
		}
	}
}

func TestBeaconOpens(t *testing.T) {
	seal := NewBeaconSeal(testKey(7))
	d, err := seal.Seal(beaconTime, [beaconNonceLen]byte{1}, testBeacon(1, "192.0.2.1:4747"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		key  byte
		at   overlay.Instant
		d    []byte
		want error
	}{
		{"now", 7, beaconTime, d, nil},
		{"a slow clock", 7, beaconTime.Add(-BeaconSkew), d, nil},
		{"a fast clock", 7, beaconTime.Add(BeaconSkew), d, nil},
		{"recorded", 7, beaconTime.Add(BeaconSkew + time.Second), d, errBeaconTime},
		{"from the future", 7, beaconTime.Add(-BeaconSkew - time.Second), d, errBeaconTime},
		{"another network", 8, beaconTime, d, errBeaconStranger},
		{"cut off", 7, beaconTime, d[:BeaconLen-1], errBeaconStranger},
		{"longer", 7, beaconTime, append(bytes.Clone(d), 0), errBeaconStranger},
		{"nothing", 7, beaconTime, nil, errBeaconStranger},
	} {
		if _, err := NewBeaconSeal(testKey(c.key)).Open(c.at, c.d); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for i := range d {
		forged := bytes.Clone(d)
		forged[i] ^= 0x10
		if _, err := seal.Open(beaconTime, forged); !errors.Is(err, errBeaconStranger) {
			t.Fatalf("byte %d altered: %v", i, err)
		}
	}
}

func TestBeaconRefusesWhatCannotBeTold(t *testing.T) {
	seal := NewBeaconSeal(testKey(7))
	nine := testBeacon(1)
	for range MaxBeaconAddrs + 1 {
		nine.Addrs = append(nine.Addrs, netip.MustParseAddrPort("192.0.2.1:4747"))
	}
	for _, b := range []Beacon{nine, testBeacon(1, "239.1.2.3:1"), testBeacon(1, "192.0.2.1:0"), testBeacon(1, "[fe80::1%eth0]:1")} {
		if _, err := seal.Seal(beaconTime, [beaconNonceLen]byte{}, b); err == nil {
			t.Errorf("%v was sealed", b.Addrs)
		}
	}
}

func FuzzParseBeacon(f *testing.F) {
	body := func(b Beacon) []byte {
		out, err := b.append(nil, beaconTime)
		if err != nil {
			f.Fatal(err)
		}
		return out
	}
	f.Add(body(testBeacon(1)))
	f.Add(body(testBeacon(2, "192.0.2.1:4747", "[2001:db8::1]:4748")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		b, sent, err := parseBeacon(in)
		if err != nil {
			return
		}
		out, err := b.append(nil, overlay.Instant(sent*int64(time.Second)))
		if err != nil || len(out) != beaconBodyLen {
			t.Fatalf("%+v: %d bytes, %v", b, len(out), err)
		}
		used := beaconHeadLen
		for _, a := range b.Addrs {
			used += len(appendAddr(nil, a))
		}
		const flags, time0, time1 = 1, 2, 10 // reserved flags are ignored; not every time is an Instant
		in = bytes.Clone(in)
		in[flags] &= beaconAsks
		copy(out[time0:time1], in[time0:time1])
		if !bytes.Equal(in[:used], out[:used]) {
			t.Fatalf("%x comes back as %x", in[:used], out[:used])
		}
	})
}
