package agent

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dropProgram gives back the pages of the program itself: much of it runs at the start
// only. What runs again comes from the page cache, 64 KB at a time. A mapping with a page
// that isn't the file's any more stays as it is.
func dropProgram() error {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	var start, end uintptr // of the mapping that the lines are about, if it is the program's
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if from, to, ok := strings.Cut(field[0], "-"); ok {
			start, end = 0, 0
			if len(field) == 6 && field[5] == program && strings.HasPrefix(field[1], "r-") {
				start, end = address(from), address(to)
			}
		}
		if field[0] != "Anonymous:" || start >= end || field[1] != "0" {
			continue
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("give back the program's pages: %w", e)
		}
	}
	return lines.Err()
}

// address reads an address of /proc/PID/maps, 0 if it is none.
func address(s string) uintptr {
	a, _ := strconv.ParseUint(s, 16, 64)
	return uintptr(a)
}
