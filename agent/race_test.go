//go:build race

package agent

// slowness is by how much slower agents are that the race detector watches.
const slowness = 2
