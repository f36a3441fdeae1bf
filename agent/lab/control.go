package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
)

// A PathStatus is what a directed pair of sites does to packets, and has done.
type PathStatus struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Shape   Shape  `json:"shape"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	Lost    uint64 `json:"lost"`    // by chance
	Full    uint64 `json:"full"`    // no room in the queue
	TooLong uint64 `json:"toolong"` // longer than the path's MTU
	InCut   uint64 `json:"incut"`   // while the path was cut
	Refused uint64 `json:"refused"` // the emulator held as much as it may
}

// A WANStatus is what the wide area is and has done.
type WANStatus struct {
	Paths []PathStatus `json:"paths"` // between different sites, in the sites' order
	Stray uint64       `json:"stray"` // packets to an address that no other site has
	NATs  []NATStatus  `json:"nats,omitempty"`
}

// Status returns what the wide area is and has done.
func (e *Emulator) Status() WANStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := WANStatus{Stray: e.stray, NATs: e.natStatus()}
	for from, row := range e.paths {
		for to, p := range row {
			if from == to {
				continue
			}
			s.Paths = append(s.Paths, PathStatus{
				From: e.sites[from].Name, To: e.sites[to].Name, Shape: p.Shape,
				Packets: p.Packets, Bytes: p.Bytes,
				Lost: p.Dropped[DropLoss], Full: p.Dropped[DropFull], TooLong: p.Dropped[DropMTU],
				InCut: p.Dropped[DropCut], Refused: p.Dropped[DropHold],
			})
		}
	}
	return s
}

// Change alters the path from one site to another, or nothing if the result
// would not be valid.
func (e *Emulator) Change(from, to string, c Change) error {
	i, err := e.index(from)
	if err != nil {
		return err
	}
	j, err := e.index(to)
	if err != nil {
		return err
	}
	if i == j {
		return fmt.Errorf("no path leads from %s to itself", from)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	shape, err := c.apply(e.paths[i][j].Shape)
	if err != nil {
		return err
	}
	e.paths[i][j].Shape = shape
	if c.Seed != nil {
		e.chance[i][j] = chanceOf(i, j, *c.Seed)
	}
	return nil
}

func (e *Emulator) index(name string) (int, error) {
	i := slices.IndexFunc(e.sites, func(s WANSite) bool { return s.Name == name })
	if i < 0 {
		return 0, fmt.Errorf("no site %q", name)
	}
	return i, nil
}

// A controlRequest asks to change the path From one site To another if both
// are given, to make NATs forget, move, or stop or pass UDP if they are named, and
// for the status.
// One JSON value each way, then the end.
type controlRequest struct {
	From       string `json:"from,omitempty"`
	To         string `json:"to,omitempty"`
	Change     Change `json:"change,omitzero"`
	ForgetNAT  string `json:"forget_nat,omitempty"`
	NewAddress string `json:"new_address,omitempty"`
	BlockUDP   string `json:"block_udp,omitempty"`
	PassUDP    string `json:"pass_udp,omitempty"`
}

type controlReply struct {
	Error  string    `json:"error,omitempty"`
	Status WANStatus `json:"status"`
}

// Serve answers requests on l, one at a time, until l is closed.
func (e *Emulator) Serve(l net.Listener) error {
	err := serveControl(l, func(request controlRequest) (reply controlReply) {
		if err := e.obey(request); err != nil {
			reply.Error = err.Error()
		}
		reply.Status = e.Status()
		return reply
	})
	if err != nil {
		return fmt.Errorf("wide area: %w", err)
	}
	return nil
}

// obey does what a request asks for, until something can't be.
func (e *Emulator) obey(r controlRequest) error {
	if r.From != "" {
		if err := e.Change(r.From, r.To, r.Change); err != nil {
			return err
		}
	}
	if r.ForgetNAT != "" {
		if err := e.ForgetNAT(r.ForgetNAT); err != nil {
			return err
		}
	}
	if r.NewAddress != "" {
		if err := e.NewAddress(r.NewAddress); err != nil {
			return err
		}
	}
	if r.BlockUDP != "" {
		if err := e.PassUDP(r.BlockUDP, false); err != nil {
			return err
		}
	}
	if r.PassUDP != "" {
		return e.PassUDP(r.PassUDP, true)
	}
	return nil
}

// ask sends a request to the emulator behind the socket and returns its status.
func ask(ctx context.Context, socket string, request controlRequest) (WANStatus, error) {
	reply, err := exchange[controlReply](ctx, socket, request)
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	if err != nil {
		return WANStatus{}, fmt.Errorf("wide area: %w", err)
	}
	return reply.Status, nil
}
