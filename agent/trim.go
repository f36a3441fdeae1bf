package agent

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// trimFirst is how long after its start an agent gives back what only the start
	// needed, and trimEvery how often it does so again. Go would keep some of it, for
	// speed; that isn't asked of an agent that sent frames in trimQuiet.
	trimFirst = 20 * time.Second
	trimEvery = 5 * time.Minute
	trimQuiet = 10 * time.Second
)

// trim gives memory back to the system from time to time, while no frames pass.
func (n *node) trim(now overlay.Instant) {
	if n.trimmed == 0 {
		n.trimmed = n.epoch.Add(trimFirst - trimEvery)
	}
	if now.Sub(n.trimmed) < trimEvery {
		return
	}
	n.trimmed = now
	if slices.ContainsFunc(n.view.Load().linked, func(p *peer) bool { return now.Sub(overlay.Instant(p.sentAt.Load())) < trimQuiet }) {
		return
	}
	n.spawn("trim", func(context.Context) error { debug.FreeOSMemory(); return nil })
}
