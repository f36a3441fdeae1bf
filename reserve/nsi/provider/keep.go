package provider

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// kept is what of a core outlives the process: all but what a restart heals.
type kept struct {
	Next        int
	Faults      Faults
	Connections []*connection
	Jobs        []job
}

// Save returns what Load makes the same core of, as a provider keeps it in its database.
func (p *Core) Save() ([]byte, error) {
	k := kept{Next: p.next, Faults: p.faults, Jobs: p.jobs}
	for _, id := range slices.Sorted(maps.Keys(p.byID)) {
		k.Connections = append(k.Connections, p.byID[id])
	}
	b, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("nsi provider: state: %w", err)
	}
	return b, nil
}

// Load has a new core go on where another was when Save was called; what that was about to send
// is lost, and the circuits that must be there are asked for again.
func (p *Core) Load(b []byte) error {
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return fmt.Errorf("nsi provider: state: %w", err)
	}
	if len(k.Connections) > maxConnections || len(k.Jobs) > maxWork {
		return fmt.Errorf("nsi provider: state: %d connections with %d jobs are too many", len(k.Connections), len(k.Jobs))
	}
	if slices.Contains(k.Connections, nil) {
		return errors.New("nsi provider: state: a connection is missing")
	}
	p.next, p.faults, p.jobs = k.Next, k.Faults, k.Jobs
	for _, c := range k.Connections {
		p.byID[c.ID] = c
	}
	for _, c := range p.Wanted() {
		p.out = append(p.out, Output{Circuit: &c, Up: true})
	}
	return nil
}

// Wanted returns the circuits that must be there in the data plane.
func (p *Core) Wanted() []Circuit {
	var all []Circuit
	for _, c := range p.byID {
		if c.Up {
			all = append(all, c.circuit())
		}
	}
	slices.SortFunc(all, func(a, b Circuit) int { return cmp.Compare(a.Connection, b.Connection) })
	return all
}
