package overlay

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// synOf returns a SYN with the options as packet p says.
func synOf(t testing.TB, p packet, options ...layers.TCPOption) []byte {
	t.Helper()
	p.protocol = tcp
	all := p.network()
	syn := all[len(all)-1].(*layers.TCP)
	syn.SYN, syn.ACK, syn.SrcPort, syn.DstPort, syn.Options = true, false, 1000, 80, options
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	if p.v6 {
		eth.EthernetType = layers.EthernetTypeIPv6
	}
	front := []gopacket.SerializableLayer{eth}
	for _, id := range p.vlans {
		front = append(front, &layers.Dot1Q{VLANIdentifier: id, Type: eth.EthernetType})
	}
	for i := range p.vlans { // from the inside out
		if i > 0 {
			front[len(front)-1-i].(*layers.Dot1Q).Type = layers.EthernetTypeDot1Q
		}
		eth.EthernetType = layers.EthernetTypeDot1Q
	}
	return wire(t, append(append(front, all...), gopacket.Payload("fast open"))...)
}

func mss(n uint16) layers.TCPOption {
	return layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, n)}
}

var (
	nop   = layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
	stamp = layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: []byte("12345678")}
	scale = layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}}
)

// A clamped SYN is the one that its sender would have made with that size, to
// the bit, checksum and all.
func TestClampMSS(t *testing.T) {
	headers := []layers.IPProtocol{0, 60}
	for name, p := range map[string]packet{
		"IPv4": {}, "IPv4 in a VLAN": {vlans: []uint16{7}}, "IPv4 in two": {vlans: []uint16{7, 8}}, "a first fragment": {fragment: true},
		"IPv6": {v6: true}, "IPv6 in two VLANs": {v6: true, vlans: []uint16{7, 8}}, "IPv6 with options": {v6: true, headers: headers},
		"a first fragment of IPv6": {v6: true, headers: headers, fragment: true},
	} {
		for _, lay := range []func(n uint16) []layers.TCPOption{
			func(n uint16) []layers.TCPOption { return []layers.TCPOption{mss(n)} },
			func(n uint16) []layers.TCPOption { return []layers.TCPOption{mss(n), nop, scale, stamp} },
			func(n uint16) []layers.TCPOption { return []layers.TCPOption{nop, mss(n), stamp} }, // at an odd offset
			func(n uint16) []layers.TCPOption { return []layers.TCPOption{scale, mss(n), stamp, mss(n)} },
		} {
			for _, asked := range []uint16{1, 1299, 1300, 1301, 1440, 1460, 8960, 65535} {
				limit := uint16(1300)
				if p.v6 {
					limit = 1280
				}
				b := synOf(t, p, lay(asked)...)
				want := synOf(t, p, lay(min(asked, limit))...)
				if got := ClampMSS(b, Offload{}, 1300, 1280); got != (asked > limit) {
					t.Errorf("%s: from %d: says %v", name, asked, got)
				}
				if !bytes.Equal(b, want) {
					t.Errorf("%s: from %d:\n%x\nwant\n%x", name, asked, b, want)
				}
			}
		}
	}
}

func TestClampMSSLeavesAlone(t *testing.T) {
	syn := func(p packet, change func(b []byte)) []byte {
		b := synOf(t, p, mss(1460))
		change(b)
		return b
	}
	none := func([]byte) {}
	zero := synOf(t, packet{}, stamp, mss(1460))
	zero[14+20+21] = 0
	for name, b := range map[string][]byte{
		"no SYN":                    syn(packet{}, func(b []byte) { b[14+20+13] = 0x10 }),
		"no option":                 synOf(t, packet{}, nop, scale),
		"UDP":                       syn(packet{}, func(b []byte) { b[14+9] = 17 }),
		"a later fragment":          syn(packet{later: true}, none),
		"a later fragment of IPv6":  syn(packet{v6: true, later: true}, none),
		"options end before":        synOf(t, packet{}, layers.TCPOption{OptionType: 0, OptionLength: 1}, mss(1460)),
		"an option of length 0":     zero,
		"longer than the header":    syn(packet{}, func(b []byte) { b[14+20+21] = 5 }),
		"header longer than frame":  syn(packet{}, func(b []byte) { b[14+20+12] = 0xf0 })[:14+20+30],
		"header shorter than TCP's": syn(packet{}, func(b []byte) { b[14+20+12] = 0x40 }),
		"behind three VLANs":        syn(packet{vlans: []uint16{1, 2, 3}}, none),
		"empty":                     nil,
	} {
		want := bytes.Clone(b)
		if ClampMSS(b, Offload{}, 536, 536) || !bytes.Equal(b, want) {
			t.Errorf("%s: changed", name)
		}
	}
	if b := synOf(t, packet{}, mss(1460)); ClampMSS(b, Offload{}, 0, 1280) {
		t.Error("changed without a limit")
	}
}

// The sum of the pseudo header, which waits in an unfinished frame, stays.
func TestClampMSSUnfinished(t *testing.T) {
	b, want := synOf(t, packet{}, mss(1460)), synOf(t, packet{}, mss(1300))
	o := Offload{Start: 14 + 20, Offset: 16}
	for _, f := range [][]byte{b, want} {
		binary.BigEndian.PutUint16(f[14+20+16:], fold(pseudoSum(f[14:], len(f)-14-20, protocolTCP)))
	}
	if !ClampMSS(b, o, 1300, 0) || !bytes.Equal(b, want) {
		t.Fatalf("%x\nwant\n%x", b, want)
	}
	if !Complete(b, o) || !bytes.Equal(b[:14+20+24], synOf(t, packet{}, mss(1300))[:14+20+24]) {
		t.Error("the checksum that is computed then is wrong")
	}
}

// slowMSS returns where in frame b the values of MSS options of a SYN lie, and
// where the TCP header starts: byte by byte, as the RFCs tell it.
func slowMSS(b []byte) (values []int, l4 int, v6 bool) {
	get := func(i, n int) (v int) {
		for ; n > 0; i, n = i+1, n-1 {
			v <<= 8
			if i < len(b) {
				v |= int(b[i])
			}
		}
		return v
	}
	at, tags := 14, 0
	for ; tags < 2 && (get(at-2, 2) == 0x8100 || get(at-2, 2) == 0x88a8) && at+4 <= len(b); tags++ {
		at += 4
	}
	switch kind := get(at-2, 2); {
	case kind == 0x0800 && get(at, 1)>>4 == 4 && get(at, 1)&15 >= 5 && get(at+9, 1) == 6 && get(at+6, 2)&0x1fff == 0:
		l4 = at + get(at, 1)&15*4
	case kind == 0x86dd && get(at, 1)>>4 == 6 && at+40 <= len(b):
		v6 = true
		next, fragments, before := get(at+6, 1), 0, 0
		for l4 = at + 40; next != 6; before++ {
			switch {
			case before < 8 && (next == 0 || next == 43 || next == 60) && l4+2 <= len(b):
				next, l4 = get(l4, 1), l4+8+8*get(l4+1, 1)
			case next == 44 && fragments == 0 && l4+8 <= len(b) && get(l4+2, 2)>>3 == 0:
				fragments, before = 1, -1
				next, l4 = get(l4, 1), l4+8
			default:
				return nil, 0, v6
			}
		}
	default:
		return nil, 0, v6
	}
	end := l4 + get(l4+12, 1)>>4*4
	if l4+20 > len(b) || end > len(b) || end < l4+20 || get(l4+13, 1)&2 == 0 {
		return nil, 0, v6
	}
	for i := l4 + 20; i < end && b[i] != 0; {
		n := 1
		if b[i] != 1 {
			n = get(i+1, 1)
			if i+1 >= end || n < 2 || i+n > end {
				break
			}
		}
		if b[i] == 2 && n == 4 {
			values = append(values, i+2)
		}
		i += n
	}
	return values, l4, v6
}

// FuzzClampMSS compares with slowMSS, and checks that a checksum is as right
// after as it was before: that the sum of all words is the same.
func FuzzClampMSS(f *testing.F) {
	for _, p := range []packet{{}, {v6: true, vlans: []uint16{1, 2}}, {v6: true, headers: []layers.IPProtocol{0, 60}, fragment: true}} {
		f.Add(synOf(f, p, nop, mss(1460), stamp), uint16(1300), false)
		f.Add(synOf(f, p, mss(1460), mss(9000)), uint16(1300), true)
	}
	sum := func(b []byte) (s int) {
		for i, x := range b {
			s += int(x) << (8 - i%2*8)
		}
		return s % 0xffff
	}
	f.Fuzz(func(t *testing.T, b []byte, most uint16, unfinished bool) {
		most = max(most, 1)
		want := bytes.Clone(b)
		var values []int
		l4 := 0
		if len(b) >= 14 {
			values, l4, _ = slowMSS(b)
		}
		lowered := false
		for _, at := range values {
			if v := binary.BigEndian.Uint16(want[at:]); v > most {
				binary.BigEndian.PutUint16(want[at:], most)
				lowered = true
			}
		}
		var o Offload
		if unfinished {
			o = Offload{Start: 34, Offset: 16}
		}
		before := sum(b[l4:])
		if got := ClampMSS(b, o, int(most), int(most)); got != lowered {
			t.Fatalf("says %v: want %v", got, lowered)
		}
		if lowered && !unfinished {
			if after := sum(b[l4:]); after != before {
				t.Fatalf("the sum was %d and is %d", before, after)
			}
			copy(b[l4+16:l4+18], want[l4+16:])
		}
		if !bytes.Equal(b, want) {
			t.Fatalf("%x\nwant\n%x", b, want)
		}
	})
}

func BenchmarkClampMSS(b *testing.B) {
	data := func(v6 bool) []byte { return packet{v6: v6, protocol: tcp, payload: 1400}.frame(b) }
	for name, f := range map[string][]byte{
		"data4": data(false), "data6": data(true),
		"UDP": packet{protocol: udp}.frame(b), "SYN": synOf(b, packet{}, mss(1300), nop, scale, stamp),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ClampMSS(f, Offload{}, 1300, 1280)
			}
		})
	}
}
