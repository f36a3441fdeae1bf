package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"
)

// A wan is the wire between two hosts as a wide area: the one of 'farlan lab',
// between two interfaces without any offload, so that the kernel cuts what it
// sends before the wire sees it, and what is lost is one packet.
type wan struct {
	*hosts
	socket string
}

const (
	wanDelay = 10 * time.Millisecond // each way
	wanMTU   = 1500
	// wanLongest is more than wanMTU, so that what is longer is seen.
	wanLongest = 9000
)

// A wanShape is what the wide area does to the packets of one direction.
type wanShape struct {
	Delay time.Duration `json:"delay"`
	Rate  string        `json:"rate"`
	Loss  string        `json:"loss"`
	Queue string        `json:"queue"`
	MTU   int           `json:"mtu"`
}

// traffic is what the wide area has counted from one side to the other.
type traffic struct {
	From    string
	Packets float64 // that arrived
	Lost    float64 // by chance
	TooLong float64
	Refused float64 // the emulator itself had no room
	Full    float64 // the rate's queue had none
}

func (t traffic) less(u traffic) traffic {
	return traffic{t.From, t.Packets - u.Packets, t.Lost - u.Lost, t.TooLong - u.TooLong, t.Refused - u.Refused, t.Full - u.Full}
}

// newWAN returns hosts with a wide area between them, which loses nothing yet,
// also beside an error, to be closed.
func newWAN(p plan, number int) (*wan, error) {
	h, err := apart(p, number)
	h.before = soon
	w := &wan{hosts: h, socket: filepath.Join(h.dir, "wan")}
	if err != nil {
		return w, err
	}
	shape := wanShape{Delay: wanDelay, Rate: "unlimited", Loss: "0", Queue: "50ms", MTU: wanMTU}
	var sites []any
	for side, ns := range h.ns {
		sites = append(sites, map[string]any{
			"name": fmt.Sprint(side), "namespace": ns, "device": "u", "prefixes": []string{underlay(side) + "/32"},
		})
	}
	config, err := json.Marshal(map[string]any{"sites": sites, "mtu": wanLongest, "shape": shape, "seed": number + 1})
	if err != nil {
		return w, err
	}
	path, err := h.write("wan.json", string(config))
	if err != nil {
		return w, err
	}
	if _, err := h.spawn(0, append(slices.Clone(h.before), p.farlan, "lab", "wan-daemon", path, w.socket)...); err != nil {
		return w, err
	}
	if err := h.wired(); err != nil {
		return w, err
	}
	return w, h.both(func(side int) error {
		// A connection is not to begin with what the last one has learned.
		_, err := h.in(side, "sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1")
		return errors.Join(err, h.ipIn(side, fmt.Sprint("link set u mtu ", wanMTU)))
	})
}

// set changes the path in both directions.
func (w *wan) set(change map[string]any) error {
	return w.both(func(side int) error {
		_, err := w.ask(map[string]any{"from": fmt.Sprint(side), "to": fmt.Sprint(1 - side), "change": change})
		return err
	})
}

// traffic returns what was counted from side 0, and from side 1.
func (w *wan) traffic() (t [2]traffic, err error) {
	paths, err := w.ask(map[string]any{})
	if err != nil {
		return t, err
	}
	for side := range t {
		for _, p := range paths {
			if p.From == fmt.Sprint(side) {
				t[side] = p
			}
		}
	}
	return t, nil
}

// ask has one exchange with the wide area's control socket.
func (w *wan) ask(request any) ([]traffic, error) {
	conn, err := net.DialTimeout("unix", w.socket, time.Second)
	if err != nil {
		return nil, fmt.Errorf("wide area: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, fmt.Errorf("wide area: %w", err)
	}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return nil, fmt.Errorf("wide area: %w", err)
	}
	var reply struct {
		Error  string
		Status struct{ Paths []traffic }
	}
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		return nil, fmt.Errorf("wide area: %w", err)
	}
	if reply.Error != "" {
		return nil, fmt.Errorf("wide area: %s", reply.Error)
	}
	return reply.Status.Paths, nil
}
