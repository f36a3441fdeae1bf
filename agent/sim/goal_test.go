package sim

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
)

// What runs showed beside what they shall: FARLAN_SIM_GOALS names a file to which it is
// appended, so that one table comes of several runs.
var goals struct {
	sync.Mutex
	lines []string
}

// mostMemory is from how many bytes on memory is saved rather than time.
const mostMemory = 1200 << 20

func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" { // what lives is little beside what comes and goes
		debug.SetGCPercent(400)
		debug.SetMemoryLimit(mostMemory)
	}
	code := m.Run()
	text := strings.Join(goals.lines, "")
	if name := os.Getenv("FARLAN_SIM_GOALS"); name != "" {
		if err := add(name, text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func add(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// atMost notes a figure that shall be so much at most, and fails if it is more.
func atMost(t *testing.T, what string, got, most float64) {
	t.Helper()
	note(t, what, got, "≤", most, got <= most)
}

// atLeast is the same of what shall be so much at least.
func atLeast(t *testing.T, what string, got, least float64) {
	t.Helper()
	note(t, what, got, "≥", least, got >= least)
}

func note(t *testing.T, what string, got float64, sign string, want float64, met bool) {
	t.Helper()
	verdict := map[bool]string{true: "met", false: "MISSED"}[met]
	line := fmt.Sprintf("%-88s %10.4g  %s %-7.4g %s\n", what, got, sign, want, verdict)
	goals.Lock()
	goals.lines = append(goals.lines, line)
	goals.Unlock()
	if !met {
		t.Errorf("%s", line)
	}
}
