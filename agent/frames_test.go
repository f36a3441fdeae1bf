package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
	"farlan/overlay/link"
)

// A memory is a device without a kernel: it counts what is written.
type memory struct{ frames, bytes int }

func (m *memory) Name() string                   { return "memory" }
func (m *memory) MTU() int                       { return 1500 }
func (m *memory) Offload() bool                  { return true }
func (m *memory) Queues() int                    { return 0 }
func (m *memory) FD(int) int                     { return -1 }
func (m *memory) Read(int, *overlay.Batch) error { return nil }
func (m *memory) Close() error                   { return nil }
func (m *memory) Write(_ int, frames []overlay.Frame) int {
	for _, f := range frames {
		m.frames++
		m.bytes += f.Len()
	}
	return len(frames)
}

// A mirror is a node in session with itself over a real socket: what its port
// sends to the peer comes back from the peer.
type mirror struct {
	n    *node
	port *memory
	peer *peer
	lane *lane
}

func newMirror(t testing.TB) *mirror {
	t.Helper()
	network, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	static, err := overlay.NewStaticKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &mirror{port: &memory{}, n: newNode(&config{}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(network, discovery.AdminPublic{})), identity{key, static}, discovery.Credential{})}
	pair, err := link.Open(netip.MustParseAddrPort("127.0.0.1:0"), link.Config{Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pair.Close() })
	m.n.sockets = []*link.Port{pair}
	m.n.ports = []*port{{device: m.port, name: "memory", kind: "tap"}}
	m.n.sw.LAN = []bool{false}
	m.n.ask = m.n.sender(func(p *link.Port) *link.Writer { return p.Probe.Writer() })
	m.meet(t, network, pair.Delay.LocalAddr())
	if m.lane, err = newLane(m.n, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.lane.poll.Close() })
	return m
}

// meet gives the node a session with a peer, and shows both ends of it to it.
func (m *mirror) meet(t testing.TB, network discovery.NetworkKey, at netip.AddrPort) {
	t.Helper()
	now := m.n.now()
	other, err := overlay.NewStaticKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := overlay.AgentID{1}
	theirs := overlay.NewHandshaker(id, other, network.DoorKey(), network.SessionPSK(), overlay.HasAES())
	i, d, err := m.n.hs.Initiate(now, id, other.Public, 1, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	far, answer, err := theirs.Respond(now, d, func(overlay.AgentID, [32]byte) bool { return true }, 2, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	near, err := i.Finish(now, answer)
	if err != nil {
		t.Fatal(err)
	}
	m.peer = newPeer(id, 0, now, 2)
	m.peer.heard(now)
	m.peer.mtu = measure.NewMTU(now, 9000)
	m.peer.out.Store(&outbound{session: near, way: overlay.Direct(at), around: packetOverhead(at), size: 1452})
	m.n.view.Store(&view{
		byIndex: []*peer{m.peer}, linked: []*peer{m.peer},
		sessions: map[uint32]*inboundSession{2: {peer: m.peer, session: far}},
	})
}

// turn sends a batch of frames and takes in what comes back.
func (m *mirror) turn(t testing.TB, frames []overlay.Frame) {
	m.lane.out.carry(m.n.now(), m.n.view.Load(), 0, frames)
	for want := m.port.frames + len(frames); m.port.frames < want; {
		m.receive(t)
	}
}

// receive takes in what comes next.
func (m *mirror) receive(t testing.TB) {
	if err := m.lane.poll.Wait(time.Second, false); err != nil {
		t.Fatal(err)
	}
	if _, err := m.lane.turn(m.n.now()); err != nil {
		t.Fatal(err)
	}
}

// there and back are stations: one at the port, one at the peer.
var (
	there = overlay.MAC{2, 0, 0, 0, 0, 1}
	back  = overlay.MAC{2, 0, 0, 0, 0, 2}
)

func ethernet(dst, src overlay.MAC, n int) []byte {
	f := make([]byte, n)
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12], f[13] = 0x08, 0x00
	return f
}

// What the port sends to the peer comes back from the peer and is written to
// the port: the whole way of a frame, without an allocation.
func TestFramePathDoesNotAllocate(t *testing.T) {
	m := newMirror(t)
	frames := make([]overlay.Frame, 32)
	for i := range frames {
		frames[i].Head = ethernet(back, there, 1514-i)
	}
	// Nobody knows the station "back", so the frames are flooded both ways; there
	// are fewer than a station may flood at once.
	m.turn(t, frames)
	if n := testing.AllocsPerRun(25, func() { m.turn(t, frames) }); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
	if m.port.bytes != m.port.frames*1514-m.port.frames/32*(31*32/2) {
		t.Errorf("%d frames of %d bytes came out", m.port.frames, m.port.bytes)
	}
	if v := m.n.drops.views(); len(v) != 0 {
		t.Errorf("dropped: %+v", v)
	}
}

// An acknowledgement that can't be sent, as the session with the peer is lost, is
// forgotten: a lane that went on trying would never sleep.
func TestAcknowledgementForNobody(t *testing.T) {
	m := newMirror(t)
	m.turn(t, []overlay.Frame{{Head: ethernet(back, there, 100)}})
	if m.lane.in.next(0) == math.MaxInt64 {
		t.Fatal("nothing is owed")
	}
	m.peer.out.Store(nil)
	m.lane.in.acknowledge(m.n.now().Add(time.Second), m.lane.out)
	if at := m.lane.in.next(0); at != math.MaxInt64 {
		t.Errorf("still owed, at %v", at)
	}
}

func TestProbeIsAnswered(t *testing.T) {
	m := newMirror(t)
	m.n.askPeer(m.peer, m.peer.out.Load(), nil)
	// The probe comes in by the far session, whose answer the near one would open.
	m.probes(t)
	near := m.peer.out.Load().session
	m.n.view.Store(&view{byIndex: m.n.view.Load().byIndex, sessions: map[uint32]*inboundSession{1: {peer: m.peer, session: near}}})
	m.probes(t)
	m.peer.mu.Lock()
	defer m.peer.mu.Unlock()
	if rtt, ok := m.peer.path.RTT(m.n.now()); !ok || rtt <= 0 || rtt > time.Second {
		t.Errorf("round trip %v, %v", rtt, ok)
	}
}

// However long a probe and its reply lie at the sockets before they are read, that is not
// of the round trip: the kernel stamps them when they come.
func TestWaitsAreNoRoundTrip(t *testing.T) {
	const wait = 80 * time.Millisecond
	m := newMirror(t)
	m.n.askPeer(m.peer, m.peer.out.Load(), nil)
	time.Sleep(wait)
	m.probes(t)
	time.Sleep(wait)
	near := m.peer.out.Load().session
	m.n.view.Store(&view{byIndex: m.n.view.Load().byIndex, sessions: map[uint32]*inboundSession{1: {peer: m.peer, session: near}}})
	m.probes(t)
	if v := m.peer.pair(m.n.now()); v.RTTSource != measure.Measured || v.RTT <= 0 || v.RTT > wait/2 || m.n.now().Sub(v.RTTAt) < wait {
		t.Errorf("%+v", v)
	}
}

// A frame and its acknowledgement tell the round trip, too, without the time for which
// either lies at a socket, or the acknowledgement waits for company.
func TestFrameTellsTheRoundTrip(t *testing.T) {
	const wait = 80 * time.Millisecond
	m := newMirror(t)
	frame := []overlay.Frame{{Head: ethernet(back, there, 100)}}
	m.n.sw.Stations.Learn(m.n.now(), there, overlay.PortPlace(0))
	m.n.sw.Stations.Claim(there) // else it is claimed with these frames, and moves as they come back
	m.turn(t, frame)             // from here on the kernel stamps
	m.lane.in.acknowledge(m.n.now().Add(wait), m.lane.out)
	m.receive(t)
	first := m.peer.pair(m.n.now())
	time.Sleep(300 * time.Millisecond)
	m.lane.out.carry(m.n.now(), m.n.view.Load(), 0, frame)
	time.Sleep(wait)
	m.receive(t)
	time.Sleep(wait)
	m.lane.in.acknowledge(m.n.now(), m.lane.out)
	time.Sleep(wait)
	m.receive(t)
	v := m.peer.pair(m.n.now())
	if v.RTTSource != measure.Measured || v.RTTAt <= first.RTTAt || v.Smoothed <= 0 || v.Smoothed > wait/2 || v.RTT <= 0 {
		t.Errorf("first %+v, then %+v", first, v)
	}
	if v := m.n.drops.views(); len(v) != 0 {
		t.Errorf("dropped: %+v", v)
	}
}

// Probes, replies and acknowledgements of a member that can't be change nothing, and are
// counted where other drops are.
func TestProbesOutOfPlace(t *testing.T) {
	m := newMirror(t)
	s := m.n.view.Load().sessions[2]
	near := m.peer.out.Load().session
	in := newInbound(m.n, 0)
	in.writer = m.n.sockets[0].Probe.Writer()
	m.n.view.Store(&view{byIndex: []*peer{m.peer}, sessions: map[uint32]*inboundSession{near.LocalIndex(): {peer: m.peer, session: near}}})
	send := func(item []byte) {
		in.now, in.view, in.from = m.n.now(), m.n.view.Load(), m.n.sockets[0].Delay.LocalAddr()
		b := append(make([]byte, overlay.HeaderLen, 200), item...)
		in.datagram(s.session.Seal(overlay.KindProbe, 0, b), 0)
		in.note(0)
	}
	number := func() uint32 {
		m.peer.mu.Lock()
		defer m.peer.mu.Unlock()
		return m.peer.path.Probe(m.n.now()).Number
	}
	for i, p := range []struct {
		probe overlay.Probe
		reply bool
	}{
		{overlay.Probe{Echo: number() + 99}, true},
		{overlay.Probe{Echo: number(), HoldMicros: 1 << 31}, true},
		{overlay.Probe{Number: 5, Highest: 1 << 20, Count: 1 << 10}, true},
		{overlay.Probe{Number: 5, Highest: 1, Count: 9}, false},
	} {
		send(overlay.AppendProbe(nil, p.probe, p.reply))
		if n := m.n.drops[dropProbe].Load(); n != uint64(i)+1 {
			t.Errorf("%+v: %d were counted", p, n)
		}
	}
	send(overlay.AppendAck(nil, overlay.Ack{Index: near.LocalIndex(), Highest: 1 << 40, Count: 1 << 39, Bytes: 1 << 45, Stamp: 1}))
	v := m.peer.pair(m.n.now())
	if n := m.n.drops[dropProbe].Load(); n != 5 || v.RTTSource != measure.Unknown || v.LossKnown {
		t.Errorf("%d were counted: %+v", n, v)
	}
	if views := m.n.drops.views(); len(views) != 1 || views[0].Reason != dropNames[dropProbe] {
		t.Errorf("status tells %+v", views)
	}
}

// probes takes in what comes next at the socket for probes.
func (m *mirror) probes(t testing.TB) {
	t.Helper()
	a, err := newAnswerer(m.n, m.n.sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.file.Close() }()
	for deadline := time.Now().Add(5 * time.Second); a.batch.Len() == 0 && time.Now().Before(deadline); {
		if err := a.socket.Read(a.batch); err != nil {
			t.Fatal(err)
		}
	}
	a.in.receive(m.n.now(), m.n.view.Load(), a.in.writer, a.batch)
}

// BenchmarkFramePath sends batches of frames of one flow to the peer; the time is that
// of a frame.
func BenchmarkFramePath(b *testing.B) {
	for _, size := range []int{60, 1514} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			m := newMirror(b)
			frames := make([]overlay.Frame, 32)
			for i := range frames {
				frames[i].Head = ethernet(back, there, size)
			}
			m.n.sw.Stations.Learn(m.n.now(), back, m.peer.place())
			for b.Loop() {
				m.lane.out.carry(m.n.now(), m.n.view.Load(), 0, frames)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(frames)), "ns/frame")
		})
	}
}
