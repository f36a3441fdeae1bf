package guest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
)

// An archive writes the files of an initial RAM disk: a gzip stream of cpio
// entries in the "new ASCII" form (Linux, Documentation/driver-api/early-userspace/
// buffer-format.rst):
//
//	"070701" and 13 fields of 8 hexadecimal digits:
//	    inode mode uid gid links mtime size major minor rmajor rminor namelen check
//	the name, zero-terminated; zeros up to a multiple of 4
//	the content;               zeros up to a multiple of 4
//
// The last entry is called TRAILER!!!. The first error sticks; Close reports it.
type archive struct {
	out   *gzip.Writer
	inode int
	err   error
}

// File types of an entry's mode (inode(7)).
const (
	modeFile = 0o100000
	modeDir  = 0o040000
	modeChar = 0o020000
)

func newArchive(w io.Writer) *archive { return &archive{out: gzip.NewWriter(w)} }

// dir adds a folder.
func (a *archive) dir(name string) { a.entry(name, modeDir|0o755, 0, 0, nil) }

// file adds a file that may be executed.
func (a *archive) file(name string, content []byte) { a.entry(name, modeFile|0o755, 0, 0, content) }

// device adds a character device.
func (a *archive) device(name string, major, minor int) {
	a.entry(name, modeChar|0o600, major, minor, nil)
}

// Close ends the archive and returns the first error.
func (a *archive) Close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	if err := a.out.Close(); a.err == nil {
		a.err = err
	}
	return a.err
}

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.inode++
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name))
	a.write(content)
}

// write writes b and zeros up to a multiple of 4; every part begins at one.
func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	if _, a.err = a.out.Write(b); a.err == nil {
		_, a.err = a.out.Write(bytes.Repeat([]byte{0}, -len(b)&3))
	}
}
