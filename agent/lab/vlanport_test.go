package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A vlanPort sends and receives frames of one VLAN of an interface. It is a packet socket, as not
// every kernel has VLAN interfaces.
type vlanPort struct {
	t    *testing.T
	fd   int
	vlan uint16
	mac  []byte
}

// testEtherType is one of those for experiments (IEEE 802).
const testEtherType = 0x88b5

func (h Host) vlanPort(t *testing.T, device string, vlan uint16) *vlanPort {
	t.Helper()
	p := &vlanPort{t: t, vlan: vlan}
	err := inNamespace(h.Namespace, func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		p.mac = link.Attrs().HardwareAddr
		patience := unix.NsecToTimeval(int64(20 * time.Millisecond))
		return errors.Join(
			unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}),
			unix.SetsockoptInt(p.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	return p
}

// send sends a payload to all on the VLAN.
func (p *vlanPort) send(payload []byte) {
	p.t.Helper()
	frame := append(bytes.Repeat([]byte{0xff}, 6), p.mac...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
	frame = binary.BigEndian.AppendUint16(frame, p.vlan)
	frame = binary.BigEndian.AppendUint16(frame, testEtherType)
	if _, err := unix.Write(p.fd, append(frame, payload...)); err != nil && !errors.Is(err, unix.ENOBUFS) {
		p.t.Error(err)
	}
}

// receive returns the next payload from the VLAN, or nil if none comes for a moment.
func (p *vlanPort) receive() []byte {
	b, control := make([]byte, 2048), make([]byte, 128)
	for {
		n, c, _, from, err := unix.Recvmsg(p.fd, b, control, 0)
		if err != nil {
			return nil
		}
		if a, ok := from.(*unix.SockaddrLinklayer); !ok || a.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if n > 14 && binary.BigEndian.Uint16(b[12:]) == testEtherType && tagIn(control[:c]) == p.vlan {
			return b[14:n]
		}
	}
}

// tagIn returns the VLAN of which a packet socket tells beside a frame.
func tagIn(control []byte) uint16 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
			return aux.Vlan_tci & tagVLAN
		}
	}
	return 0
}

// reaches sends a payload and says whether it gets to the other end and back.
func (p *vlanPort) reaches(far *vlanPort, text string) bool {
	p.t.Helper()
	gets := func(at *vlanPort) bool {
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			switch got := at.receive(); {
			case bytes.Equal(got, []byte(text)):
				return true
			case got == nil:
				return false
			}
		}
		return false
	}
	for range 3 {
		p.send([]byte(text))
		if gets(far) {
			far.send([]byte(text))
			if gets(p) {
				return true
			}
		}
	}
	return false
}

// A flood is what was sent one way over a circuit, and what came.
type flood struct {
	sent, came int           // bytes of frames
	sending    time.Duration // from the first to the last frame sent
	all        time.Duration // until the last that came was taken
}

// overload sends so much for a while, in frames of 1518 bytes with their tags, and counts what
// comes at the other end.
func (p *vlanPort) overload(far *vlanPort, mbit int, during time.Duration) flood {
	p.t.Helper()
	const frame = 1518
	payload := make([]byte, frame-18)
	start := time.Now()
	came := make(chan int, 1)
	stop := make(chan struct{})
	go func() {
		sum := 0
		for {
			if got := far.receive(); got != nil {
				sum += len(got) + 18
				continue
			}
			select {
			case <-stop:
				came <- sum
				return
			default:
			}
		}
	}()
	var l flood
	for l.sending < during {
		for l.sending = time.Since(start); l.sent*8 < int(l.sending.Microseconds())*mbit; l.sent += frame {
			p.send(payload)
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	l.came = <-came
	l.all = time.Since(start)
	return l
}
