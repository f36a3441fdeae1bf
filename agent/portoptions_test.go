package agent

import (
	"testing"

	"farlan/overlay"
)

func TestPortOptions(t *testing.T) {
	c, err := parseOptions(t, map[string]string{"FARLAN_QEMU": "/tmp/a,tag=7 /tmp/b"}, "",
		"--tap", "a0,bridge=br0,tag=10,trunks=20+30-32", "--lan", "a1,trunks=4094")
	if err != nil {
		t.Fatal(err)
	}
	passes := func(v overlay.VLANs, tag uint16, trunks ...uint16) {
		t.Helper()
		want := new(overlay.VLANSet)
		for _, id := range trunks {
			want.Add(id)
		}
		if v.Tag != tag || (v.Trunks == nil) != (trunks == nil) || v.Trunks != nil && *v.Trunks != *want {
			t.Errorf("%+v, want %d and %v", v, tag, trunks)
		}
	}
	passes(c.Taps[0].VLANs, 10, 20, 30, 31, 32)
	passes(c.LANs[0].VLANs, 0, 4094)
	passes(c.QEMUs[0].VLANs, 7)
	passes(c.QEMUs[1].VLANs, 0)
	if c.Taps[0].Bridge != "br0" || c.QEMUs[0].Path != "/tmp/a" || c.QEMUs[1].Path != "/tmp/b" {
		t.Errorf("%+v, %+v", c.Taps, c.QEMUs)
	}
}

// A pretended device gives one frame, and keeps what it gets.
type pretended struct {
	device
	frame   []byte
	written []overlay.Frame
}

func (p *pretended) Read(_ int, b *overlay.Batch) error {
	b.Reset()
	b.Commit(copy(b.Slot(), p.frame), overlay.Offload{})
	return nil
}

func (p *pretended) Write(_ int, frames []overlay.Frame) int {
	p.written = append(p.written[:0], frames...)
	return len(frames)
}

// A port with VLANs is its device but for them, and no slower for the collector.
func TestPortOfVLANs(t *testing.T) {
	plain := ethernet(overlay.Broadcast, overlay.MAC{2, 0, 0, 0, 0, 1}, 60)
	d := &pretended{frame: plain}
	p := &port{device: d, filter: filter{vlans: overlay.VLANs{Tag: 10}}}
	b := overlay.NewBatch()
	if n := testing.AllocsPerRun(10, func() {
		if err := p.Read(0, b); err != nil || len(b.Frames()) != 1 {
			t.Fatalf("%v, %d frames", err, len(b.Frames()))
		}
		if n := p.Write(0, b.Frames()); n != 1 || len(d.written) != 1 || d.written[0].Len() != len(plain) {
			t.Errorf("%d written: %v", n, d.written)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := len(b.Frames()[0].Head); got != len(plain)+4 {
		t.Errorf("%d bytes in the network", got)
	}
	d.written = nil
	if n := p.Write(0, []overlay.Frame{{Head: plain}}); n != 1 || d.written != nil {
		t.Errorf("of another VLAN: %d taken, %v", n, d.written)
	}
	d.frame = b.Frames()[0].Head
	if err := p.Read(0, b); err != nil || len(b.Frames()) != 0 || p.filter.refused.Load() != 1 {
		t.Errorf("a tag: %v, %d frames, %d refused", err, len(b.Frames()), p.filter.refused.Load())
	}
}
