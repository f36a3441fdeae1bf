package agent

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// A guest is a packet socket on an agent's TAP in another namespace: it is the machine behind
// the port.
type guest struct {
	fd  int
	mu  sync.Mutex
	got map[uint64]int
	at  map[uint64]time.Time
}

// inNamespace runs f in a network namespace.
func inNamespace(t *testing.T, ns string, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	other, err := os.Open("/run/netns/" + ns)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	f()
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err) // the thread is of no use any more
	}
}

const guestType = 0x88b7 // of nobody whom this host knows; 0x88b5 and 0x88b6 are agents'

func newGuest(t *testing.T, ns, device string) *guest {
	t.Helper()
	g := &guest{got: make(map[uint64]int), at: make(map[uint64]time.Time)}
	inNamespace(t, ns, func() {
		i, err := net.InterfaceByName(device)
		if err != nil {
			t.Fatal(err)
		}
		proto := uint16(guestType<<8&0xff00 | guestType>>8)
		if g.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(g.fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: i.Index}); err != nil {
			t.Fatal(err)
		}
	})
	var listening sync.WaitGroup
	listening.Go(g.listen)
	t.Cleanup(func() {
		_ = unix.Shutdown(g.fd, unix.SHUT_RDWR)
		_ = unix.Close(g.fd)
	})
	return g
}

// listen counts what comes until the socket is closed.
func (g *guest) listen() {
	var b [2048]byte
	_ = unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	for {
		n, from, err := unix.Recvfrom(g.fd, b[:], 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); n < 22 || ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		number := binary.BigEndian.Uint64(b[14:])
		g.mu.Lock()
		g.got[number]++
		if g.got[number] == 1 {
			g.at[number] = time.Now()
		}
		g.mu.Unlock()
	}
}

func (g *guest) broadcast(mac overlay.MAC, number uint64) {
	f := binary.BigEndian.AppendUint64(ethernet(overlay.Broadcast, mac, 14), number)
	binary.BigEndian.PutUint16(f[12:], guestType)
	_, _ = unix.Write(g.fd, append(f, make([]byte, 38)...))
}

// Broadcasts of real agents that choose links: while all is well each reaches all others'
// TAPs once; after a link of the tree is cut, and after an agent in it dies, they do again
// before long; and none ever comes twice.
func TestBroadcastsOfProcesses(t *testing.T) {
	if os.Getenv("FARLAN_LONG") == "" {
		t.Log("only with FARLAN_LONG: links take some epochs, of ten seconds each; nodes in one process show the same in little time")
		return
	}
	const count = 18
	takeTurn(t)
	c := newCrowd(t)
	seed := ""
	for i := range count {
		args := []string{"--tap", fmt.Sprint("t", i)}
		if seed != "" {
			args = append(args, "--bootstrap", seed)
		}
		if a := c.add(args...); seed == "" {
			seed = a.bootstrap()
		}
	}
	c.see(c.agents, count, time.Minute)
	guests := make([]*guest, count)
	for i := range guests {
		guests[i] = newGuest(t, c.ns, fmt.Sprint("t", i))
	}
	// A datagram that one sends another then leaves nowhere, but for this host's own rules.
	c.run("ip", "-n", c.ns, "rule", "add", "pref", "100", "lookup", "local")
	c.run("ip", "-n", c.ns, "rule", "del", "pref", "0")
	took := eventually(t, 2*time.Minute, func() error {
		time.Sleep(time.Second)
		for _, a := range c.agents {
			v, err := a.status()
			if err == nil && (!v.Floods.Tree || v.Floods.Direct > 0) {
				err = fmt.Errorf("%s: %+v", a.name, v.Floods)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("all are in the tree %v after all saw each other", took)
	s := &song{t: t, c: c, guests: guests, alive: make([]bool, count)}
	for i := range s.alive {
		s.alive[i] = true
	}
	calm := s.sing(20 * time.Second)
	t.Logf("calm: %d broadcasts, %d missed by somebody", calm.sent, calm.missed)
	var v linksView
	if err := c.agents[0].ask(&v, "links", "--own"); err != nil {
		t.Fatal(err)
	}
	to := 0
	if _, err := fmt.Sscanf(v.Links[0].To, "agent-%d", &to); err != nil {
		t.Fatal(err)
	}
	for _, e := range [][2]int{{0, to}, {to, 0}} {
		c.run("ip", "-n", c.ns, "rule", "add", "pref", "50", "from", c.address(e[0]), "to", c.address(e[1]), "blackhole")
	}
	cut := s.sing(20 * time.Second)
	t.Logf("a link is cut: %d broadcasts, %d missed by somebody, the last one %v after", cut.sent, cut.missed, cut.last)
	dead := to
	most := uint64(0)
	for i, a := range c.agents {
		if st, err := a.status(); err == nil && i > 0 && st.Floods.Passed > most {
			most, dead = st.Floods.Passed, i
		}
	}
	c.agents[dead].kill()
	s.alive[dead] = false
	died := s.sing(30 * time.Second)
	t.Logf("agent %d, which passed on most, dies: %d broadcasts, %d missed by somebody, the last one %v after", dead, died.sent, died.missed, died.last)
	if calm.missed > 0 || calm.last > 0 || cut.last > 5*time.Second || died.last > 15*time.Second {
		t.Error("broadcasts are missed for too long")
	}
	s.report()
}

// A song is broadcasts of all guests in turn, and who got them.
type song struct {
	t      *testing.T
	c      *crowd
	guests []*guest
	alive  []bool
	number uint64
}

type verse struct {
	sent, missed int
	last         time.Duration // when the last one that somebody missed was sent
}

// sing has the guests send one after the other for a time.
func (s *song) sing(length time.Duration) (v verse) {
	type sending struct {
		number uint64
		from   int
		at     time.Duration
	}
	var all []sending
	began := time.Now()
	for i := 0; time.Since(began) < length; i++ {
		from := i % len(s.guests)
		if !s.alive[from] {
			continue
		}
		s.number++
		all = append(all, sending{s.number, from, time.Since(began)})
		s.guests[from].broadcast(overlay.MAC{2, 0, 0, 0, 7, byte(from)}, s.number)
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second)
	for _, x := range all {
		var by []int
		for i, g := range s.guests {
			g.mu.Lock()
			if g.got[x.number] == 0 && i != x.from && s.alive[i] {
				by = append(by, i)
			}
			g.mu.Unlock()
		}
		if v.sent++; len(by) > 0 {
			v.missed, v.last = v.missed+1, x.at
		}
	}
	return v
}

// report fails if something came twice.
func (s *song) report() {
	s.t.Helper()
	twice := 0
	for _, g := range s.guests {
		g.mu.Lock()
		for _, times := range g.got {
			if times > 1 {
				twice++
			}
		}
		g.mu.Unlock()
	}
	if twice > 0 {
		s.t.Errorf("%d broadcasts came twice to somebody", twice)
	}
	var said []string
	for i, a := range s.c.agents {
		if st, err := a.status(); s.alive[i] && err == nil {
			said = append(said, fmt.Sprintf("%s %d/%d/%d", a.name, st.Floods.To, st.Floods.Copies, st.Floods.Passed))
			for _, d := range st.Drops {
				if strings.Contains(d.Reason, "flood") {
					said = append(said, fmt.Sprintf("(%s %d)", d.Reason, d.Count))
				}
			}
		}
	}
	s.t.Logf("children/copies/passed on: %v", said)
}
