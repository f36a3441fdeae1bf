package agent

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The program's pages are given back, and the program goes on.
func TestDropProgram(t *testing.T) {
	before := residentOfFiles(t)
	if err := dropProgram(); err != nil {
		t.Fatal(err)
	}
	after := residentOfFiles(t)
	t.Logf("%d kB before, %d after", before, after)
	if after > before*9/10 {
		t.Error("hardly anything was given back")
	}
}

// residentOfFiles returns how much of this process's files is in its memory, in kB.
func residentOfFiles(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssFile:")
	kB, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kB
}
