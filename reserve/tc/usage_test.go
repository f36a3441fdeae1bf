//go:build linux

package tc

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/reserve"
)

// All that is sent by a grant's socket has passed its class or was dropped there, in IP packets,
// however the kernel carries them; what was counted stays so when the class is made anew.
func TestUsage(t *testing.T) {
	t.Parallel()
	h := newPlace(t).open(20 * reserve.Mbit)
	newSink(t, h.far)
	g := h.active(want(1, 5*reserve.Mbit))
	c := dial(t, h.Namespace, g.Mark)
	control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20) })
	sent := uint64(0)
	drained := func() (u reserve.Usage) {
		t.Helper()
		for range 500 {
			h.must(func(ctx context.Context) (err error) { u, err = h.d.Usage(ctx, g); return err })
			if u.Backlog == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if u.Packets+u.Dropped != sent || u.Bytes != u.Packets*(payload+28) {
			t.Errorf("of %d packets of %d bytes: %+v", sent, payload+28, u)
		}
		return u
	}
	write := func(times, n int) {
		t.Helper()
		for range times {
			if _, err := c.Write(make([]byte, n*payload)); err != nil {
				t.Fatal(err)
			}
			sent += uint64(n)
		}
	}
	write(300, 1) // 0.4 MB where 80 KB may wait
	var u reserve.Usage
	h.must(func(ctx context.Context) (err error) { u, err = h.d.Usage(ctx, g); return err })
	if u.Backlog == 0 || u.Dropped == 0 {
		t.Errorf("nothing waits, or is dropped: %+v", u)
	}
	drained()
	control(t, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, payload) })
	write(1, 40) // segmentation offload
	before := drained()
	g = h.after(h.d.Activate, h.after(h.d.Deactivate, g))
	if got := drained(); got != before {
		t.Errorf("with another class %+v, before %+v", got, before)
	}
	write(1, 20)
	if got := drained(); got.Packets != before.Packets+20 {
		t.Errorf("with another class and 20 packets more %+v, before %+v", got, before)
	}
}
