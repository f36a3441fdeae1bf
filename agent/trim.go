package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	// trimFirst is how long after its start an agent gives back what only the start
	// needed, and trimEvery how often it does so again: it has met others meanwhile.
	// What it still uses comes back by itself, page by page, in less than a
	// millisecond; that isn't asked of an agent that sent frames in trimQuiet.
	trimFirst = 20 * time.Second
	trimEvery = time.Minute
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
	n.spawn("trim", func(context.Context) error {
		debug.FreeOSMemory()
		if err := unmapCode(); err != nil {
			n.log.Debug("can't unmap code that isn't used", "error", err)
		}
		return nil
	})
}

// unmapCode takes the program's code and constants out of this process's memory. They
// stay in the page cache, and what is used is mapped again: half of them are used only
// at the start.
func unmapCode() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	areas, err := codeAreas(f, self)
	if err != nil {
		return err
	}
	for _, a := range areas {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, a.start, a.length, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

// An area is a part of this process's memory.
type area struct{ start, length uintptr }

// codeAreas returns the areas of smaps, in the format of proc_pid_smaps(5), that hold a
// file as it is on the disk: they can't be written, and nothing in them has been, as
// dynamic linkers do.
func codeAreas(smaps io.Reader, file string) (out []area, err error) {
	var a area
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		var start, end uintptr
		var mode string
		if count, _ := fmt.Sscanf(line, "%x-%x %s", &start, &end, &mode); count == 3 {
			a = area{}
			if strings.HasSuffix(line, " "+file) && !strings.Contains(mode, "w") && end > start {
				a = area{start, end - start}
			}
		} else if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && a.length > 0 {
			out = append(out, a)
		}
	}
	return out, lines.Err()
}
