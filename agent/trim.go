package agent

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"farlan/overlay"
)

const (
	// collectAt is how much garbage may pile up, in percent of what lives (Go's is
	// 100): the frame path makes none, so collecting costs little.
	collectAt = 50
	// trimFirst is how long after its start an agent gives back what only the start
	// needed, and trimEvery how often it does so again with what nothing uses any
	// more. Go would keep some of it, for speed; that isn't asked of an agent that
	// sent frames in trimQuiet.
	trimFirst = 20 * time.Second
	trimEvery = 30 * time.Second
	trimQuiet = 10 * time.Second
)

// trim gives memory back to the system from time to time, while no frames pass.
func (n *node) trim(now overlay.Instant) {
	first := n.trimmed == 0
	if first && now.Sub(n.epoch) < trimFirst || !first && now.Sub(n.trimmed) < trimEvery {
		return
	}
	if slices.ContainsFunc(n.view.Load().linked, func(p *peer) bool { return now.Sub(overlay.Instant(p.sentAt.Load())) < trimQuiet }) {
		return
	}
	n.trimmed = now
	n.spawn("trim", func(context.Context) error {
		debug.FreeOSMemory()
		if err := dropProgram(); err != nil {
			n.log.Debug("memory not given back", "error", err)
		}
		return nil
	})
}
