package segment

import (
	"reflect"
	"testing"
	"time"

	"farlan/overlay"
)

var full = Beacon{
	Name: Name{overlay.AgentID{1, 2, 3}, 7}, Label: "eth0", Epoch: 1 << 40, Number: 9, Wall: 123456789,
	Forwarding: true, Leads: true, Able: true, Useful: true, Leader: 77,
	Heard: []Heard{{1, 2, 3, true}, {4, 5, 6, false}},
}

func TestBeacon(t *testing.T) {
	k, other := Key{1}, Key{2}
	from := overlay.MAC{2, 0, 0, 0, 0, 1}
	many := full
	for i := range 2 * MaxHeard {
		many.Heard = append(many.Heard, Heard{Tag: Tag(i), Number: 1})
	}
	for _, b := range []Beacon{full, {Name: name(0), Number: 1}, many} {
		f := b.Append(nil, from, &k)
		if len(f) > 590 || overlay.MAC(f[6:12]) != from || !overlay.IsSegment(f) || IsLearn(f) {
			t.Errorf("frame of %d bytes", len(f))
		}
		got, ok := Parse(append(f, make([]byte, 20)...), other, k) // padded
		b.Heard = b.Heard[:min(len(b.Heard), MaxHeard)]
		if !ok || !reflect.DeepEqual(got, b) {
			t.Errorf("got %+v %v, want %+v", got, ok, b)
		}
		if _, ok := Parse(f, other); ok {
			t.Error("another network's key proves it")
		}
		for i := range f {
			f[i] ^= 1
			if _, ok := Parse(f, k); ok {
				t.Errorf("byte %d isn't proven", i)
			}
			f[i] ^= 1
			if _, ok := Parse(f[:i], k); ok {
				t.Errorf("%d bytes are enough", i)
			}
		}
	}
	if l := AppendLearn(nil, from); !IsLearn(l) || overlay.MAC(l[6:12]) != from {
		t.Errorf("learn %x", l)
	}
}

// Beacons that were recorded aren't believed: not in the same epoch, nor later, unless the
// other answers, as after its clock was set back.
func TestReplay(t *testing.T) {
	now, wall := overlay.Instant(1), overlay.Instant(time.Hour)
	p := New(now, name(0), "a", 1)
	b := Beacon{Name: name(1), Epoch: 10, Number: 5, Wall: wall, Able: true}
	old := b
	if !p.Receive(now, wall, b) || p.Receive(now, wall, old) {
		t.Error("a new one isn't believed, or it is twice")
	}
	now = now.Add(time.Minute)
	p.Tick(now)
	if len(p.Others()) != 0 || p.Receive(now, wall, old) {
		t.Error("it is when the other was forgotten")
	}
	before := b
	before.Epoch--
	if before.Number = 99; p.Receive(now, wall, before) {
		t.Error("one of an earlier epoch is")
	}
	late := Beacon{Name: name(2), Epoch: 10, Number: 5, Wall: wall.Add(-time.Hour), Able: true}
	if p.Receive(now, wall, late) {
		t.Error("one of an hour ago is")
	}
	told, ok := p.Beacon(now.Add(time.Second), wall)
	if !ok || len(told.Heard) != 1 || told.Heard[0].Tag != late.Tag() {
		t.Fatalf("the next one is %+v", told)
	}
	late.Number++
	late.Heard = []Heard{{Tag: p.tag, Epoch: uint32(told.Epoch), Number: told.Number}}
	before.Heard = late.Heard
	if !p.Receive(now, wall, late) || !p.Receive(now, wall, before) {
		t.Error("one that answers isn't")
	}
}

// What members say that makes no sense doesn't panic, and is bounded.
func FuzzPort(f *testing.F) {
	k := Key{1}
	f.Add(full.Append(nil, overlay.MAC{2}, &k), uint16(10))
	f.Add(AppendLearn(nil, overlay.MAC{2}), uint16(0))
	f.Fuzz(func(t *testing.T, frame []byte, after uint16) {
		IsLearn(frame)
		if len(frame) > fixed { // as a member would make it
			frame = append([]byte(nil), frame...)
			copy(frame, overlay.SegmentGroup[:])
			frame[12], frame[13], frame[14], frame[49] = 0x88, 0xb6, version, frame[49]%(MaxHeard+1)
			if end := fixed + int(frame[49])*heardLen; len(frame) >= end+proofLen {
				p := k.proof(frame[:end])
				copy(frame[end:], p[:])
			}
		}
		b, ok := Parse(frame, k)
		if !ok {
			return
		}
		if again, ok := Parse(b.Append(nil, overlay.MAC(frame[6:12]), &k), k); !ok || !reflect.DeepEqual(again, b) {
			t.Errorf("%+v became %+v", b, again)
		}
		p := New(1, name(0), "a", 1)
		now := overlay.Instant(1)
		for i := range 2 * remembered {
			b.Port, b.Number = byte(i), b.Number+1
			p.Receive(now, overlay.Instant(after), b)
			now = now.Add(time.Duration(after) * time.Millisecond)
			p.Tick(now)
			p.Beacon(now, 0)
		}
		if len(p.others) > MaxHeard || len(p.known) > remembered || len(p.joined) > remembered || len(p.last) > remembered {
			t.Error("it grows")
		}
	})
}
