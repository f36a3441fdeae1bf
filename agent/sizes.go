package agent

import (
	"fmt"

	"farlan/agent/decide"
)

// testSizes is set by tests alone, as they are linked: "WHOLE MOST LEAST JOIN", of networks
// small enough for one machine.
var testSizes string

// areaSizes returns when this agent's network is divided into areas.
func areaSizes() decide.Sizes {
	z := decide.Usual
	if testSizes != "" {
		_, _ = fmt.Sscan(testSizes, &z.Whole, &z.Most, &z.Least, &z.Join)
	}
	return z
}
