//go:build linux

package tap

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/nstest"
)

// A monitor is a virtual machine monitor's end of a TAP, opened as these do it: by name,
// what 'ip tuntap add' made before, with headers of 12 bytes before frames.
type monitor struct {
	t  *testing.T
	fd int
}

// monitorHeader is how long struct virtio_net_hdr_mrg_rxbuf is.
const monitorHeader = 12

func openMonitor(t *testing.T, n *nstest.Namespace, name string, flags uint16, offload int) *monitor {
	t.Helper()
	m := &monitor{t, -1}
	n.Do(func() {
		var err error
		if m.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			t.Error(err)
			return
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
			err = unix.IoctlIfreq(m.fd, unix.TUNSETIFF, request)
		}
		if err == nil {
			err = unix.IoctlSetPointerInt(m.fd, unix.TUNSETVNETHDRSZ, monitorHeader)
		}
		if err == nil {
			err = unix.IoctlSetInt(m.fd, unix.TUNSETOFFLOAD, offload)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	// The bridge takes a moment to notice that there is somebody.
	for end := time.Now().Add(5 * time.Second); !strings.Contains(n.Run("bridge link show dev "+name), "state forwarding"); {
		if time.Now().After(end) {
			t.Fatal("the bridge doesn't forward to " + name)
		}
	}
	return m
}

// send sends a super-frame of TCP over IPv4, unfinished.
func (m *monitor) send(f *overlay.Frame) {
	m.t.Helper()
	const needsChecksum, tcp4 = 1, 1
	b := make([]byte, monitorHeader)
	b[0], b[1] = needsChecksum, tcp4
	binary.NativeEndian.PutUint16(b[2:], uint16(len(f.Head)))
	binary.NativeEndian.PutUint16(b[4:], f.Segment)
	binary.NativeEndian.PutUint16(b[6:], f.Start)
	binary.NativeEndian.PutUint16(b[8:], f.Offset)
	if _, err := unix.Write(m.fd, append(b, join(f)...)); err != nil {
		m.t.Fatal(err)
	}
}

// gets waits for a frame, which comes in one piece.
func (m *monitor) gets(f *overlay.Frame) {
	m.t.Helper()
	b, want := make([]byte, 1<<17), join(f)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}, 1000)
		n, err := unix.Read(m.fd, b)
		if err == nil && bytes.Equal(b[monitorHeader:n], want) && binary.NativeEndian.Uint16(b[4:]) == f.Segment {
			return
		}
	}
	m.t.Error("the guest doesn't get it in one piece")
}

// Monitors that open a TAP by name share a bridge with ours: super-frames pass between
// guest and port in one piece, whoever of them is started again.
func TestMonitors(t *testing.T) {
	for name, c := range map[string]struct {
		add     string
		flags   uint16
		offload int
	}{
		"firecracker":              {"", 0, unix.TUN_F_CSUM | unix.TUN_F_UFO | unix.TUN_F_TSO4 | unix.TUN_F_TSO6},
		"cloud hypervisor":         {"", 0, unix.TUN_F_CSUM | unix.TUN_F_UFO | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN},
		"cloud hypervisor, queues": {" multi_queue", unix.IFF_MULTI_QUEUE, unix.TUN_F_CSUM | unix.TUN_F_UFO | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN},
	} {
		t.Run(name, func(t *testing.T) {
			n := nstest.New(t)
			n.IP("link add br0 type bridge mcast_snooping 0 && ip link set br0 up")
			n.IP("tuntap add dev vm0 mode tap" + c.add)
			n.IP("link set vm0 master br0 up")
			port := open(t, n, Config{Name: "farlan0", Bridge: "br0"})
			up := superFrame(t, overlay.SuperTCP4, 0, 60000, 1448)
			down := superFrame(t, overlay.SuperTCP4, 0, 50000, 1448)
			copy(down.Head[:12], []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3})
			for range 2 { // and again, after the monitor was ended
				m := openMonitor(t, n, "vm0", c.flags, c.offload)
				r := newReader(port)
				m.send(up)
				got := r.next(t, func(g *overlay.Frame) bool { return bytes.Equal(g.Head[:12], up.Head[:12]) })
				if !bytes.Equal(join(got), join(up)) || got.Offload != up.Offload {
					t.Errorf("%d bytes, %+v; want %d, %+v", got.Len(), got.Offload, up.Len(), up.Offload)
				}
				if w := port.Write(0, []overlay.Frame{*down}); w != 1 {
					t.Error("not written")
				}
				m.gets(down)
				_ = unix.Close(m.fd)
			}
			if !exists(n, "vm0") {
				t.Error("the monitor's TAP is gone")
			}
		})
	}
}
