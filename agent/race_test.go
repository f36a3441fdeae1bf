//go:build race

package agent

// raced says that the race detector slows down the agents, too: they run in this
// program's processes.
const raced = true
