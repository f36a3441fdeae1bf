package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// An audience is a home and three far sites, as network namespaces, each with an agent and a
// TAP, t, that its own kernel uses:
//
//	0: t 10.78.0.1, u 10.77.0.1 ──┐
//	1: t 10.78.0.2, u 10.77.0.2 ── hub: br0
//	2, 3 …                      ──┘
type audience struct {
	*sites
	hosts  []string
	agents []*process
	ears   []*ear
}

// An ear is a socket that may join the group, and what it heard of the stream.
type ear struct {
	fd, device int

	mu    sync.Mutex
	first time.Time // when something was heard
	heard map[uint32]int
}

// streamFrame is how many bytes the stream's frames have: they come fewer than StationFloods a second.
const streamPort, streamFrame = 5007, 1400

func newAudience(t *testing.T) *audience {
	needRoot(t)
	s := &audience{sites: &sites{t: t}}
	prefix := fmt.Sprintf("fa%d-%d", os.Getpid(), siteCount.Add(1))
	add := func(name string) string {
		s.host("ip netns add " + prefix + name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", prefix+name).Run() })
		s.host("ip -n " + prefix + name + " link set lo up")
		return prefix + name
	}
	hub, key, seed := add("hub"), newKeyFile(t), []string(nil)
	s.host("ip -n " + hub + " link add br0 type bridge")
	s.host("ip -n " + hub + " link set br0 up")
	for i := range 4 {
		ns := add(fmt.Sprint(i))
		s.host(fmt.Sprintf("ip link add u netns %s type veth peer name u%d netns %s", ns, i, hub))
		s.host(fmt.Sprintf("ip -n %s link set u%d master br0 up", hub, i))
		s.host(fmt.Sprintf("ip -n %s addr add 10.77.0.%d/24 dev u", ns, i+1))
		s.host("ip -n " + ns + " link set u up")
		args := append([]string{"--listen", fmt.Sprintf("10.77.0.%d:4747", i+1), "--beacon=off", "--tap", "t"}, seed...)
		a := startAgentIn(t, ns, key, fmt.Sprint("site", i), args...)
		seed = []string{"--bootstrap", a.bootstrap()}
		s.host(fmt.Sprintf("ip -n %s addr add 10.78.0.%d/24 dev t", ns, i+1))
		s.hosts, s.agents = append(s.hosts, ns), append(s.agents, a)
		s.ears = append(s.ears, newEar(t, ns))
	}
	for _, a := range s.agents {
		eventually(t, 20*time.Second, func() error { return a.seesThere(s.agents) })
	}
	for i := range s.hosts[1:] {
		eventually(t, 20*time.Second, func() error { return s.try(s.hosts[0], fmt.Sprintf("ping -c1 -W1 -q 10.78.0.%d", i+2)) })
	}
	t.Cleanup(func() {
		for _, a := range s.agents {
			if v, err := a.status(); t.Failed() && err == nil {
				t.Logf("%s: %+v, dropped %v", a.name, v.Floods, v.Drops)
			}
		}
	})
	return s
}

// newEar opens a socket, and has it hear what comes until the test ends.
func newEar(t *testing.T, ns string) *ear {
	t.Helper()
	e := &ear{heard: make(map[uint32]int)}
	inNamespace(t, ns, func() {
		i, err := net.InterfaceByName("t")
		if err == nil {
			e.device = i.Index
			e.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(unix.SetsockoptInt(e.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptTimeval(e.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0),
			unix.SetsockoptIPMreqn(e.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(e.device)}),
			unix.SetsockoptInt(e.fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 4),
			unix.Bind(e.fd, &unix.SockaddrInet4{Port: streamPort}))
		if err != nil {
			t.Fatal(err)
		}
	})
	var done atomic.Bool
	var listening sync.WaitGroup
	listening.Go(func() { e.listen(&done) })
	t.Cleanup(func() {
		done.Store(true)
		listening.Wait()
		_ = unix.Close(e.fd)
	})
	return e
}

func (e *ear) listen(done *atomic.Bool) {
	var b [2048]byte
	for !done.Load() {
		n, _, err := unix.Recvfrom(e.fd, b[:], 0)
		if err != nil || n < 4 {
			continue
		}
		e.mu.Lock()
		if e.heard[binary.BigEndian.Uint32(b[:])]++; e.first.IsZero() {
			e.first = time.Now()
		}
		e.mu.Unlock()
	}
}

// join has the kernel say that it listens to the group, and leave that it doesn't any more.
func (s *audience) join(i int) time.Time { return s.set(i, unix.IP_ADD_MEMBERSHIP) }

func (s *audience) leave(i int) time.Time { return s.set(i, unix.IP_DROP_MEMBERSHIP) }

func (s *audience) set(i, option int) time.Time {
	s.t.Helper()
	e := s.ears[i]
	e.mu.Lock()
	e.first, e.heard = time.Time{}, make(map[uint32]int)
	e.mu.Unlock()
	at := time.Now()
	if err := unix.SetsockoptIPMreqn(e.fd, unix.IPPROTO_IP, option, &unix.IPMreqn{Multiaddr: testGroup, Ifindex: int32(e.device)}); err != nil {
		s.t.Fatal(err)
	}
	return at
}

// stream sends 10 Mbit/s to the group from home until the time is over, and tells the numbers of the first datagram and the one behind the last.
func (s *audience) stream(d time.Duration, from *uint32) (first, end uint32) {
	s.t.Helper()
	const each, every = 10, 11200 * time.Microsecond
	b := make([]byte, streamFrame-42)
	first = *from
	for start, k := time.Now(), 0; time.Since(start) < d; k++ {
		for range each {
			binary.BigEndian.PutUint32(b, *from)
			if err := unix.Sendto(s.ears[0].fd, b, 0, &unix.SockaddrInet4{Port: streamPort, Addr: testGroup}); err != nil {
				s.t.Fatal(err)
			}
			*from++
		}
		time.Sleep(time.Until(start.Add(time.Duration(k+1) * every)))
	}
	return first, *from
}

// missed returns how many of some datagrams an ear didn't hear, and heard more than once.
func (e *ear) missed(first, end uint32) (missed, twice int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := first; i < end; i++ {
		switch n := e.heard[i]; {
		case n == 0:
			missed++
		case n > 1:
			twice++
		}
	}
	return missed, twice
}

// hears fails unless an ear hears all of some datagrams once.
func (s *audience) hears(i int, what string, first, end uint32) {
	s.t.Helper()
	var missed, twice int
	for range 20 {
		if missed, twice = s.ears[i].missed(first, end); missed == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if missed+twice > 0 {
		s.t.Errorf("%s: site %d missed %d of %d datagrams, and heard %d twice", what, i, missed, end-first, twice)
	}
}

// counters returns how many frames of the stream's length each site's machine got by its TAP, or
// their bytes in super-frames, and how many bytes home sent over the wide area.
func (s *audience) counters() (got [4]int, sent int) {
	s.t.Helper()
	read := func(ns, device string) (rx, tx int) {
		var v []struct {
			Stats64 struct {
				RX struct{ Bytes int }
				TX struct{ Bytes int }
			}
		}
		if err := json.Unmarshal([]byte(s.host("ip -n "+ns+" -s -j link show "+device)), &v); err != nil || len(v) != 1 {
			s.t.Fatal(err)
		}
		return v[0].Stats64.RX.Bytes, v[0].Stats64.TX.Bytes
	}
	for i, ns := range s.hosts {
		bytes, _ := read(ns, "t")
		got[i] = bytes / streamFrame
	}
	_, sent = read(s.hosts[0], "u")
	return got, sent
}

// reaches streams for a while, and returns at which sites it came out and how many times as many
// bytes as those of the stream left home.
func (s *audience) reaches(what string, d time.Duration, number *uint32) (at []int, first, end uint32) {
	s.t.Helper()
	before, sent := s.counters()
	first, end = s.stream(d, number)
	time.Sleep(200 * time.Millisecond)
	after, now := s.counters()
	count := int(end - first)
	for i := 1; i < len(s.hosts); i++ {
		switch got := after[i] - before[i]; {
		case got > count*9/10:
			at = append(at, i)
		case got > count/20: // queries and reports
			s.t.Errorf("%s: site %d got %d frames of %d", what, i, got, count)
		}
	}
	s.t.Logf("%s: %.1f Mbit/s come out at sites %v; %.2f times as much leaves home", what,
		float64(count*streamFrame*8)/d.Seconds()/1e6, at, float64(now-sent)/float64(count*streamFrame))
	return at, first, end
}

// ask is a querier at home: it asks every second, and for the group alone when somebody leaves
// it (RFC 3376 § 6), until the test ends.
func (s *audience) ask() {
	s.t.Helper()
	own, fd := overlay.MAC{2, 0, 0, 0, 9, 9}, -1
	inNamespace(s.t, s.hosts[0], func() {
		var err error
		if fd, err = openPacketSocket("t"); err != nil {
			s.t.Fatal(err)
		}
	})
	var done atomic.Bool
	var asking sync.WaitGroup
	asking.Go(func() {
		var b [2048]byte
		general, alone, again := time.Time{}, time.Time{}, 0
		for !done.Load() {
			now := time.Now()
			if now.Sub(general) >= time.Second {
				general = now
				_, _ = unix.Write(fd, groupQuery(own, [4]byte{}))
			}
			if again > 0 && now.Sub(alone) >= time.Second {
				alone, again = now, again-1
				_, _ = unix.Write(fd, groupQuery(own, testGroup))
			}
			n, from, err := unix.Recvfrom(fd, b[:], 0)
			ll, ok := from.(*unix.SockaddrLinklayer)
			const record = 14 + 24 + 8 // with the router alert
			if err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < record+8 || b[14+9] != 2 || b[14+24] != 0x22 {
				continue
			}
			if b[record] == 3 && slices.Equal(b[record+4:record+8], testGroup[:]) {
				again, alone = 2, time.Time{}
			}
		}
	})
	s.t.Cleanup(func() {
		done.Store(true)
		asking.Wait()
		_ = unix.Close(fd)
	})
}

// A stream of 10 Mbit/s from home reaches all sites while nobody asks who listens, and then
// those that listen; who joins hears it at once, and who leaves doesn't get it any more.
func TestMulticastOfKernels(t *testing.T) {
	t.Parallel()
	s := newAudience(t)
	number := uint32(1)
	s.join(1)
	at, first, end := s.reaches("no querier", time.Second, &number)
	if !slices.Equal(at, []int{1, 2, 3}) {
		t.Errorf("without a querier it comes out at %v", at)
	}
	s.hears(1, "no querier", first, end)

	s.ask()
	began := time.Now()
	eventually(t, 20*time.Second, func() error {
		first, end := s.stream(100*time.Millisecond, &number)
		s.hears(1, "the querier begins", first, end)
		v, err := s.agents[0].status()
		if err == nil && v.Floods.Alone == 0 {
			err = fmt.Errorf("all is flooded: %+v", v.Floods)
		}
		return err
	})
	t.Logf("it goes to those who listen %v after the querier began", time.Since(began).Round(time.Millisecond))
	at, first, end = s.reaches("one listens", 2*time.Second, &number)
	if !slices.Equal(at, []int{1}) {
		t.Errorf("one listens: it comes out at %v", at)
	}
	s.hears(1, "one listens", first, end)

	joined := s.join(2)
	first, end = s.stream(time.Second, &number)
	s.hears(1, "another one joins", first, end)
	s.ears[2].mu.Lock()
	heard := s.ears[2].first
	s.ears[2].mu.Unlock()
	if heard.IsZero() {
		t.Error("who joins hears nothing for a second")
	}
	t.Logf("who joins hears it after %v", heard.Sub(joined).Round(time.Millisecond))
	at, first, end = s.reaches("two listen", 2*time.Second, &number)
	if !slices.Equal(at, []int{1, 2}) {
		t.Errorf("two listen: it comes out at %v", at)
	}
	s.hears(1, "two listen", first, end)
	s.hears(2, "two listen", first, end)

	left := s.leave(2)
	eventually(t, 20*time.Second, func() error {
		before, _ := s.counters()
		first, end := s.stream(200*time.Millisecond, &number)
		s.hears(1, "another one leaves", first, end)
		if after, _ := s.counters(); after[2]-before[2] > int(end-first)/4 {
			return fmt.Errorf("site 2 still gets %d frames of %d", after[2]-before[2], end-first)
		}
		return nil
	})
	t.Logf("who leaves doesn't get it any more %v later", time.Since(left).Round(time.Millisecond))
	at, first, end = s.reaches("one left", time.Second, &number)
	if !slices.Equal(at, []int{1}) {
		t.Errorf("one left: it comes out at %v", at)
	}
	s.hears(1, "one left", first, end)
}
