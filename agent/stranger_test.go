package agent

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A sniffer sees all IPv4 packets on an interface, by a packet socket.
type sniffer struct {
	fd     int
	victim netip.Addr
	done   chan struct{}

	mu       sync.Mutex
	answered map[netip.Addr]int // bytes of UDP, ICMP and TCP payloads that the victim sent, by receiver
	packets  map[netip.Addr]int // that the victim sent
	captured [][]byte           // datagrams that it was sent
}

// maxCaptured is how many datagrams a sniffer keeps.
const maxCaptured = 4000

// sniff sees what passes the interface in a namespace until the test ends.
func (s *sites) sniff(ns, device string, victim netip.Addr) *sniffer {
	s.t.Helper()
	n := &sniffer{victim: victim, done: make(chan struct{}), answered: make(map[netip.Addr]int), packets: make(map[netip.Addr]int)}
	s.within(ns, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if n.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(n.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
			unix.SetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.SetsockoptTimeval(n.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		)
	})
	stop := make(chan struct{})
	go func() {
		defer close(n.done)
		for b := make([]byte, 70_000); ; {
			size, _, err := unix.Recvfrom(n.fd, b, 0)
			if err == nil {
				n.packet(b[:size])
				continue
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	s.t.Cleanup(func() { close(stop); <-n.done; _ = unix.Close(n.fd) })
	return n
}

// packet takes an IP packet.
func (n *sniffer) packet(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	head := int(b[0]&15) * 4
	b = b[:min(len(b), int(binary.BigEndian.Uint16(b[2:])))]
	from, to := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	if len(b) < head+20 && b[9] != unix.IPPROTO_UDP {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case to == n.victim && b[9] == unix.IPPROTO_UDP && len(b) > head+8 && len(n.captured) < maxCaptured:
		n.captured = append(n.captured, append([]byte(nil), b[head+8:]...))
	case from == n.victim && b[9] == unix.IPPROTO_TCP:
		n.packets[to]++
		n.answered[to] += len(b) - head - int(b[head+12]>>4)*4
	case from == n.victim:
		n.packets[to]++
		n.answered[to] += len(b) - head
	}
}

// to returns how many packets and bytes the victim has sent to an address.
func (n *sniffer) to(a netip.Addr) (packets, bytes int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.packets[a], n.answered[a]
}

// known returns the datagrams that were captured so far.
func (n *sniffer) known() [][]byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.captured
}

// probesPerSecond is below what an agent takes, so that all reach it.
const probesPerSecond = 15_000

// streamsHeld is how many TCP connections a stranger keeps open at once.
const streamsHeld = 64

// A stranger who sends FARLAN_STRANGER datagrams of many kinds (by default 20,000, a
// million with FARLAN_LONG), and opens one TCP connection for every 50, gets not a byte
// in answer; the agent takes no more memory and no more goroutines, serves members, and
// lets new ones in meanwhile.
func TestStranger(t *testing.T) {
	probes := "20000"
	if os.Getenv("FARLAN_LONG") != "" {
		probes = "1000000"
	}
	count, err := strconv.Atoi(cmp.Or(os.Getenv("FARLAN_STRANGER"), probes))
	if err != nil || count < 1000 {
		t.Fatalf("FARLAN_STRANGER: want how many datagrams, 1000 or more: %v", err)
	}
	t.Setenv("GODEBUG", "gctrace=1") // the agents log what is in use after each collection
	s := newSites(t)
	victim, stranger, foreign := netip.MustParseAddr("10.77.1.1"), netip.MustParseAddr("10.77.1.66"), netip.MustParseAddr("10.77.1.254")
	seen := s.sniff(s.r, "ua", victim)
	s.host("ip -n " + s.r + " addr add 10.77.1.66/24 dev ua")
	s.join(t, "", "--listen", ":4747")
	a := s.agents[0]
	// Somebody of another network tries to join, which leaves datagrams sealed with
	// another key, and a member starts again, which leaves handshakes.
	other := startAgentIn(t, s.r, newKeyFile(t), "foreign", "--listen", "10.77.1.254:4747", "--bootstrap", a.bootstrap())
	other.bootstrap()
	s.restart(1)
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
	eventually(t, 10*time.Second, func() error {
		if v, err := a.status(); err != nil || v.dropped(dropControl) == 0 {
			return fmt.Errorf("nobody of another network has knocked: %w", err)
		}
		return nil
	})
	other.kill()
	captured := seen.known()
	if packets, bytes := seen.to(foreign); bytes > 0 {
		t.Errorf("somebody of another network got %d bytes in %d packets", bytes, packets)
	}
	member := netip.MustParseAddr("10.77.2.1")
	if packets, _ := seen.to(member); packets == 0 || len(captured) < 50 {
		t.Fatalf("the sniffer doesn't see: %d packets to the member, %d datagrams captured", packets, len(captured))
	}

	p := newProber(t, captured)
	before, err := a.reading()
	if err != nil {
		t.Fatal(err)
	}
	// The memory of a Go program swings between what is in use and about twice that,
	// when the next collection is due: so it is the peaks that must not grow.
	const parts = 20
	var peaks [parts]int
	part := 0
	start := time.Now()
	s.within(s.r, func() error {
		return p.probe(count, stranger, victim, func(done int) {
			if now := done * parts / count; now != part {
				packets, bytes := seen.to(stranger)
				t.Logf("%3d %%: %d datagrams in %v, %d bytes of answer in %d packets, %d kB at most", now*100/parts, done, time.Since(start).Round(time.Second), bytes, packets, peaks[part])
				part = now
			}
			peaks[part] = max(peaks[part], a.memory())
		})
	})
	took := time.Since(start)
	time.Sleep(6 * time.Second) // longer than a proof is waited for
	after, err := a.reading()
	if err != nil {
		t.Fatal(err)
	}
	v, err := a.status()
	if err != nil {
		t.Fatal(err)
	}
	refused := uint64(0)
	for _, d := range v.Drops {
		refused += d.Count
	}
	packets, bytes := seen.to(stranger)
	t.Logf("%d datagrams and %d TCP connections in %v (%d captured ones among them): %d bytes of answer in %d packets, which are TCP's own; refused and counted %d",
		count, count/50, took.Round(time.Millisecond), len(captured), bytes, packets, refused)
	if bytes != 0 {
		t.Errorf("the stranger got %d bytes", bytes)
	}
	if packets == 0 {
		t.Error("the sniffer saw nothing to the stranger, not even TCP's own packets")
	}
	if refused < uint64(count)*9/10 {
		t.Errorf("only %d probes were refused: the others didn't reach the agent, or were taken", refused)
	}
	if after.goroutines > before.goroutines+10 || after.descriptors > before.descriptors+10 {
		t.Errorf("grew from %+v to %+v", before, after)
	}
	first, second := slices.Max(peaks[:parts/2]), slices.Max(peaks[parts/2:])
	t.Logf("the agent took %+v before and %+v after; at most %d kB in the first half, %d kB in the second; in use after collections: %v MB", before, after, first, second, a.inUse())
	if second > first+4000 {
		t.Errorf("its memory grew from %d to %d kB", first, second)
	}
	s.restart(1)
	back := eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
	t.Logf("a member that starts again right after is in after %v", back)
}

// inUse returns what the agent had in use after each collection, in MB, as GODEBUG's
// gctrace logs it: "gc 3 @0.5s 1%: …, 4->5->2 MB, …".
func (d *process) inUse() (all []int) {
	for line := range strings.Lines(d.said()) {
		if _, rest, ok := strings.Cut(line, " ms cpu, "); ok && strings.HasPrefix(line, "gc ") {
			var before, at, left int
			if n, _ := fmt.Sscanf(rest, "%d->%d->%d MB", &before, &at, &left); n == 3 {
				all = append(all, left)
			}
		}
	}
	return all
}

// dropped returns how many were dropped for a reason.
func (v statusView) dropped(r dropReason) uint64 {
	for _, d := range v.Drops {
		if d.Reason == dropNames[r] {
			return d.Count
		}
	}
	return 0
}

// probe sends datagrams, opens a TCP connection for every 50 of them, and tells how
// many it has sent now and then.
func (p *prober) probe(count int, from, to netip.Addr, tell func(done int)) error {
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 4747)))
	if err != nil {
		return err
	}
	defer c.Close()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: time.Second}
	var held [streamsHeld]net.Conn
	defer func() {
		for _, h := range held {
			if h != nil {
				_ = h.Close()
			}
		}
	}()
	start := time.Now()
	for i := range count {
		if _, err := c.Write(p.datagram(i)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
		if i%1000 == 0 {
			tell(i)
		}
		if i%50 == 0 {
			at := &held[i/50%streamsHeld]
			if *at != nil {
				_ = (*at).(*net.TCPConn).SetLinger(0)
				_ = (*at).Close()
			}
			if *at, err = dialer.Dial("tcp4", net.JoinHostPort(to.String(), "4747")); err != nil {
				return fmt.Errorf("stream %d: %w", i/50, err)
			}
			_, _ = (*at).Write(p.stream(i / 50))
		}
		if ahead := time.Duration(i)*time.Second/probesPerSecond - time.Since(start); ahead > 2*time.Millisecond {
			time.Sleep(ahead)
		}
	}
	return nil
}
