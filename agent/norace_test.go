//go:build !race

package agent

const slowness = 1
