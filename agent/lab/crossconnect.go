package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxCircuits = 4096
	// circuitBurst is what a circuit lets pass at once beyond its capacity: what it carries in so
	// long. A machine that has no time for the cross-connect holds up frames that came evenly;
	// less would lose those.
	circuitBurst = 50 * time.Millisecond

	tagOffset = 12 // of the VLAN tag in a frame: behind the two addresses (IEEE 802.1Q)
	tagLength = 4
	tagVLAN   = 0x0fff // of the tag's lower half; what is above is the frame's priority
)

// A VLANEnd is a VLAN of a port.
type VLANEnd struct {
	Port string `json:"port"`
	VLAN uint16 `json:"vlan"`
}

// String names the end.
func (e VLANEnd) String() string { return fmt.Sprintf("%s.%d", e.Port, e.VLAN) }

// A CrossCircuit joins two VLANs of two ports.
type CrossCircuit struct {
	ID       string     `json:"id"`
	Ends     [2]VLANEnd `json:"ends"`
	Capacity int64      `json:"capacity_mbit"` // each way, of Ethernet frames with their tags
}

// A CrossWay is what went from one end of a circuit to the other.
type CrossWay struct {
	Frames  uint64 `json:"frames"`
	Bytes   uint64 `json:"bytes"`
	Policed uint64 `json:"policed"` // frames dropped beyond the capacity
	Broken  uint64 `json:"broken"`  // frames dropped while the circuit was broken
}

// A CrossStatus is a circuit and what it carried: from its first end to its second, and back.
type CrossStatus struct {
	CrossCircuit
	Broken bool        `json:"broken"`
	Ways   [2]CrossWay `json:"ways"`
}

// A CrossPort is where circuits end: a layer-2 interface in the namespace of a site's host.
type CrossPort struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Device    string `json:"device"`
}

// A crossConnect carries the frames of circuits: what comes in at one end, a VLAN of a port, goes
// out at the other, with that one's VLAN and policed to the circuit's capacity, without a delay
// of its own. All other frames are dropped. It is in user space, so that it needs no VLANs and no
// policing of the kernel's, and offers ordinary IEEE 802.1Q at its ports. It knows nothing of
// reservations: the provider says what circuits there are to be, and they go on while the
// provider is gone, as they do in real networks. Its methods are safe for concurrent use.
type crossConnect struct {
	ports map[string]*os.File // fixed
	start time.Time

	mu       sync.Mutex
	circuits map[string]*crossCircuit
	ways     map[VLANEnd]*crossWay // by where frames come in
	stray    uint64
}

type crossCircuit struct {
	CrossStatus
	ways [2]*crossWay
}

// A crossWay is one direction of a circuit.
type crossWay struct {
	circuit *crossCircuit
	to      VLANEnd
	counts  CrossWay
	free    time.Duration // when all that passed would have left, since the start
}

// newCrossConnect makes the ports' interfaces. close gives them back.
func newCrossConnect(ports []CrossPort) (*crossConnect, error) {
	x := &crossConnect{
		ports: make(map[string]*os.File), start: time.Now(),
		circuits: make(map[string]*crossCircuit), ways: make(map[VLANEnd]*crossWay),
	}
	for _, p := range ports {
		fd, err := openTAP(p.Namespace, p.Device)
		if err != nil {
			x.close()
			return nil, fmt.Errorf("cross-connect: %w", err)
		}
		x.ports[p.Name] = os.NewFile(uintptr(fd), p.Name)
	}
	return x, nil
}

func (x *crossConnect) close() {
	for _, f := range x.ports {
		_ = f.Close()
	}
}

// run carries frames until ctx is done, and closes the ports.
func (x *crossConnect) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, x.close)
	defer stop()
	errs := make(chan error, len(x.ports))
	for name, f := range x.ports {
		go func() { errs <- x.carry(name, f) }()
	}
	var all []error
	for range x.ports {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// carry takes what comes in at a port until that is closed.
func (x *crossConnect) carry(port string, f *os.File) error {
	b := make([]byte, maxPacket+64)
	for {
		n, err := f.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil { // the interface was removed
			return fmt.Errorf("cross-connect: %w", err)
		}
		if to := x.pass(port, b[:n], time.Since(x.start)); to != nil {
			_, _ = to.Write(b[:n]) // what a port can't take is lost there
		}
	}
}

// pass says where a frame goes out that came in at a port, and gives it that end's VLAN; nil if
// it is dropped.
func (x *crossConnect) pass(port string, frame []byte, now time.Duration) *os.File {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(frame) < tagOffset+tagLength+2 || binary.BigEndian.Uint16(frame[tagOffset:]) != unix.ETH_P_8021Q {
		x.stray++
		return nil
	}
	tag := binary.BigEndian.Uint16(frame[tagOffset+2:])
	way := x.ways[VLANEnd{port, tag & tagVLAN}]
	if way == nil {
		x.stray++
		return nil
	}
	if !way.admit(len(frame), now) {
		return nil
	}
	binary.BigEndian.PutUint16(frame[tagOffset+2:], tag&^tagVLAN|way.to.VLAN)
	return x.ports[way.to.Port]
}

// admit counts a frame and says whether it passes.
func (w *crossWay) admit(bytes int, now time.Duration) bool {
	takes := time.Duration(int64(bytes) * 8000 / w.circuit.Capacity) // Mbit/s are bits in a microsecond
	switch {
	case w.circuit.Broken:
		w.counts.Broken++
		return false
	case w.free+takes > now+circuitBurst:
		w.counts.Policed++
		return false
	}
	w.free = max(w.free, now) + takes
	w.counts.Frames++
	w.counts.Bytes += uint64(bytes)
	return true
}

// connect makes a circuit, or gives the one of that name another capacity. It is an error if it
// is broken: it won't carry anything.
func (x *crossConnect) connect(c CrossCircuit) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.circuits[c.ID]; old != nil && old.Ends == c.Ends && c.Capacity > 0 {
		old.Capacity = c.Capacity
		if old.Broken {
			return fmt.Errorf("circuit %s is broken", c.ID)
		}
		return nil
	}
	if err := x.check(c); err != nil {
		return fmt.Errorf("circuit %s: %w", c.ID, err)
	}
	k := &crossCircuit{CrossStatus: CrossStatus{CrossCircuit: c}}
	for i, end := range c.Ends {
		k.ways[i] = &crossWay{circuit: k, to: c.Ends[1-i]}
		x.ways[end] = k.ways[i]
	}
	x.circuits[c.ID] = k
	return nil
}

// check says why a circuit can't be made.
func (x *crossConnect) check(c CrossCircuit) error {
	switch {
	case c.ID == "" || x.circuits[c.ID] != nil:
		return errors.New("there is another one of that name")
	case len(x.circuits) >= maxCircuits:
		return fmt.Errorf("%d are as many as can be", maxCircuits)
	case c.Capacity <= 0:
		return fmt.Errorf("%d Mbit/s are nothing", c.Capacity)
	case c.Ends[0] == c.Ends[1]:
		return fmt.Errorf("both ends are %v", c.Ends[0])
	}
	for _, end := range c.Ends {
		switch {
		case x.ports[end.Port] == nil:
			return fmt.Errorf("there is no port %q", end.Port)
		case end.VLAN == 0 || end.VLAN >= tagVLAN:
			return fmt.Errorf("%d is no VLAN", end.VLAN)
		case x.ways[end] != nil:
			return fmt.Errorf("%v is the end of circuit %s", end, x.ways[end].circuit.ID)
		}
	}
	return nil
}

// disconnect removes a circuit, if there is such a one.
func (x *crossConnect) disconnect(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.circuits[id]; c != nil {
		delete(x.ways, c.Ends[0])
		delete(x.ways, c.Ends[1])
		delete(x.circuits, id)
	}
}

// sever has a circuit carry nothing, or again what it should.
func (x *crossConnect) sever(id string, broken bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.circuits[id]
	if c == nil {
		return fmt.Errorf("there is no circuit %q", id)
	}
	c.Broken = broken
	return nil
}

// status returns all circuits by name, and how many frames were no circuit's.
func (x *crossConnect) status() (all []CrossStatus, stray uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(x.circuits)) {
		c := x.circuits[id]
		s := c.CrossStatus
		s.Ways = [2]CrossWay{c.ways[0].counts, c.ways[1].counts}
		all = append(all, s)
	}
	return all, x.stray
}
