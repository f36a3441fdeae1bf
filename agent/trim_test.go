package agent

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const someMaps = `00400000-00f80000 r-xp 00000000 fd:00 1234                               /usr/bin/farlan
Size:              11776 kB
Rss:               11000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
00f80000-01eaf000 r--p 00b80000 fd:00 1234                               /usr/bin/farlan
Anonymous:             4 kB
01eaf000-01f64000 rw-p 01aaf000 fd:00 1234                               /usr/bin/farlan
Anonymous:             0 kB
01f70000-01f80000 r--p 00b80000 fd:00 1234                               /usr/bin/farlan
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fd:00 99                         /usr/lib/libc.so.6
Anonymous:             0 kB
7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
`

func TestCodeAreas(t *testing.T) {
	got, err := codeAreas(strings.NewReader(someMaps), "/usr/bin/farlan")
	want := []area{{0x400000, 0xb80000}, {0x1f70000, 0x10000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
}

// What is taken out of memory comes back as it was.
func TestUnmapCode(t *testing.T) {
	before := residentOf(t, os.Getpid(), "RssFile")[0]
	if err := unmapCode(); err != nil {
		t.Fatal(err)
	}
	after := residentOf(t, os.Getpid(), "RssFile")[0]
	t.Logf("%d kB of files before, %d kB after", before>>10, after>>10)
	if after >= before {
		t.Error("nothing was given back")
	}
	if got, err := codeAreas(strings.NewReader(someMaps), "/usr/lib/libc.so.6"); err != nil || len(got) != 1 {
		t.Errorf("afterwards %v, %v", got, err)
	}
}
