package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
	"farlan/overlay/link"
)

// A memory is a device without a kernel: it counts what is written.
type memory struct{ frames, bytes int }

func (m *memory) Name() string              { return "memory" }
func (m *memory) MTU() int                  { return 1500 }
func (m *memory) Read(*overlay.Batch) error { select {} }
func (m *memory) Close() error              { return nil }
func (m *memory) Write(frames [][]byte) int {
	for _, f := range frames {
		m.frames++
		m.bytes += len(f)
	}
	return len(frames)
}

// A mirror is a node in session with itself over a real socket: what its port
// sends to the peer comes back from the peer.
type mirror struct {
	n    *node
	port *memory
	peer *peer
	in   *inbound
	out  *outgoing
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
	m := &mirror{port: &memory{}, n: newNode(&config{}, slog.New(slog.DiscardHandler), network, identity{key, static})}
	pair, err := link.Open(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pair.Close() })
	m.n.sockets = []socketPair{pair}
	m.n.ports = []*port{{device: m.port, name: "memory", kind: "tap"}}
	m.n.sw.LAN = []bool{false}
	m.meet(t, network, pair.Data.LocalAddr())
	m.in, m.out = newInbound(m.n, pair.Data), newOutgoing(m.n, 0)
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
	m.peer = newPeer(id, 0, now)
	m.peer.heard(now)
	m.peer.out.Store(&outbound{session: near, to: at})
	m.n.view.Store(&view{
		byIndex: []*peer{m.peer}, linked: []*peer{m.peer},
		sessions: map[uint32]*inboundSession{2: {peer: m.peer, session: far}},
	})
}

// turn sends a batch of frames and takes in what comes back.
func (m *mirror) turn(t testing.TB, frames [][]byte) {
	m.out.now = m.n.now()
	v := m.n.view.Load()
	for _, f := range frames {
		m.out.frame(v, f)
	}
	m.out.flush()
	for want := m.port.frames + len(frames); m.port.frames < want; {
		if err := m.in.socket.Read(m.in.batch); err != nil {
			t.Fatal(err)
		}
		m.in.now, m.in.view = m.n.now(), v
		m.in.batch.All(m.in.each)
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
	frames := make([][]byte, 32)
	for i := range frames {
		frames[i] = ethernet(back, there, 1514-i)
	}
	// Nobody knows the station "back", so the frames are flooded both ways; there
	// are fewer than a burst of them.
	m.turn(t, frames)
	if n := testing.AllocsPerRun(50, func() { m.turn(t, frames) }); n != 0 {
		t.Errorf("%v allocations for %d frames", n, len(frames))
	}
	if m.port.bytes != m.port.frames*1514-m.port.frames/32*(31*32/2) {
		t.Errorf("%d frames of %d bytes came out", m.port.frames, m.port.bytes)
	}
	if v := m.n.drops.views(); len(v) != 0 {
		t.Errorf("dropped: %+v", v)
	}
}

func TestProbeIsAnswered(t *testing.T) {
	m := newMirror(t)
	m.n.send = m.n.sender()
	m.peer.mu.Lock()
	number := m.peer.path.Probe(m.n.now())
	m.peer.mu.Unlock()
	m.n.probe(m.n.now(), m.peer.out.Load(), number)
	// The probe comes in by the far session, whose answer the near one would open.
	if err := m.in.socket.Read(m.in.batch); err != nil {
		t.Fatal(err)
	}
	m.in.now, m.in.view = m.n.now(), m.n.view.Load()
	near := m.peer.out.Load().session
	m.n.view.Store(&view{byIndex: m.n.view.Load().byIndex, sessions: map[uint32]*inboundSession{1: {peer: m.peer, session: near}}})
	m.in.batch.All(m.in.each)
	if err := m.in.socket.Read(m.in.batch); err != nil {
		t.Fatal(err)
	}
	m.in.now, m.in.view = m.n.now(), m.n.view.Load()
	m.in.batch.All(m.in.each)
	m.peer.mu.Lock()
	defer m.peer.mu.Unlock()
	if rtt, ok := m.peer.path.RTT(m.n.now()); !ok || rtt <= 0 || rtt > time.Second {
		t.Errorf("round trip %v, %v", rtt, ok)
	}
}
