package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/qemu"
)

// legs are machines at one QEMU socket of a node that doesn't run.
type legs struct {
	t     *testing.T
	n     *node
	port  *port
	batch *overlay.Batch
}

func newLegs(t *testing.T, vlans overlay.VLANs) *legs {
	t.Helper()
	q, err := qemu.Open(qemu.Config{Path: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &legs{t: t, batch: overlay.NewBatch(), port: &port{device: q, name: "qemu", kind: "qemu", filter: filter{vlans: vlans}}}
	l.n = newNode(&config{}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(discovery.NetworkKey{1}, discovery.AdminPublic{})), identity{key: key}, discovery.Credential{})
	l.n.ports, l.n.sw.LAN = []*port{l.port}, []bool{false}
	l.n.setLegs(0, q)
	return l
}

func (l *legs) connect() net.Conn {
	l.t.Helper()
	c, err := net.Dial("unix", l.port.Name())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	before := *l.port.connections()
	eventually(l.t, 10*time.Second, func() error {
		if err := l.port.Read(0, l.batch); err != nil || *l.port.connections() > before {
			return err
		}
		return io.ErrNoProgress
	})
	return c
}

// passes has a machine send a frame, which another one gets if pass says so, and the mark that is
// sent after it.
func (l *legs) passes(from, to net.Conn, frame []byte, pass bool) {
	l.t.Helper()
	mark := ethernet(overlay.Broadcast, overlay.MAC{2, 8, 8, 8, 8, 8}, 60)
	if tag := l.port.filter.vlans; tag.Tag == 0 && !tag.All() {
		mark = append(mark[:12:12], append([]byte{0x81, 0, 0, 20}, mark[12:]...)...)
	}
	for _, f := range [][]byte{frame, mark} {
		if _, err := from.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...)); err != nil {
			l.t.Fatal(err)
		}
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := l.port.Read(0, l.batch); err != nil {
			l.t.Fatal(err)
		}
		if len(l.batch.Frames()) > 0 {
			break
		}
	}
	got := false
	for {
		var size [4]byte
		if _, err := io.ReadFull(to, size[:]); err != nil {
			l.t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(to, b); err != nil {
			l.t.Fatal(err)
		}
		if string(b) == string(mark) {
			break
		}
		got = got || string(b) == string(frame)
	}
	if got != pass {
		l.t.Errorf("%x passes: %v, want %v", frame[:min(len(frame), 60)], got, pass)
	}
}

// What may not come from a machine at a QEMU socket doesn't pass to the others there either.
func TestGuardBetweenLegs(t *testing.T) {
	t.Parallel()
	l := newLegs(t, overlay.VLANs{})
	a, b := l.connect(), l.connect()
	own, gateway := overlay.MAC{2, 0, 0, 0, 0, 1}, overlay.MAC{2, 0, 0, 0, 9, 9}
	lease := append(ethernet(overlay.Broadcast, own, 14), 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 255, 255, 255, 255, 0, 67, 0, 68, 0, 20, 0, 0, 2, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	ra := append(ethernet(overlay.Broadcast, own, 14)[:12], 0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 58, 255, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0)
	l.passes(a, b, ethernet(overlay.Broadcast, own, 60), true)
	l.passes(a, b, lease, false)
	l.passes(a, b, ra, false)
	unicast := append([]byte(nil), lease...)
	copy(unicast, []byte{2, 0, 0, 0, 0, 2})
	l.passes(b, a, ethernet(overlay.Broadcast, overlay.MAC{2, 0, 0, 0, 0, 2}, 60), true)
	l.passes(a, b, unicast, false)

	lan := overlay.NewSource(true) // the home LAN's gateway is known there
	l.n.sw.LAN = append(l.n.sw.LAN, true)
	if _, v := l.n.sw.Forward(l.n.now(), overlay.PortPlace(1), ethernet(overlay.Broadcast, gateway, 60), &lan); v != overlay.Flood {
		t.Fatal(v)
	}
	l.passes(a, b, ethernet(overlay.Broadcast, gateway, 60), false)

	passed := 0
	source := l.n.newSource(0)
	for range 3 * overlay.StationFloods {
		if l.n.sw.Stays(l.n.now(), overlay.PortPlace(0), ethernet(overlay.Broadcast, own, 60), &source, true) {
			passed++
		}
	}
	if passed > 2*overlay.StationFloods || !l.n.sw.Stays(l.n.now(), overlay.PortPlace(0), ethernet(own, own, 60), &source, false) {
		t.Errorf("%d of %d broadcasts at once pass", passed, 3*overlay.StationFloods)
	}
}

// The VLANs of a QEMU socket hold between its machines, too.
func TestVLANsBetweenLegs(t *testing.T) {
	t.Parallel()
	trunks := new(overlay.VLANSet)
	trunks.Add(20)
	own := overlay.MAC{2, 0, 0, 0, 0, 1}
	tagged := func(id byte) []byte {
		f := ethernet(overlay.Broadcast, own, 60)
		return append(f[:12:12], append([]byte{0x81, 0, 0, id}, f[12:]...)...)
	}
	access, trunk := newLegs(t, overlay.VLANs{Tag: 10}), newLegs(t, overlay.VLANs{Trunks: trunks})
	a, b := access.connect(), access.connect()
	access.passes(a, b, ethernet(overlay.Broadcast, own, 60), true)
	access.passes(a, b, tagged(20), false)
	a, b = trunk.connect(), trunk.connect()
	trunk.passes(a, b, ethernet(overlay.Broadcast, own, 60), false)
	trunk.passes(a, b, tagged(20), true)
	trunk.passes(a, b, tagged(30), false)
}
