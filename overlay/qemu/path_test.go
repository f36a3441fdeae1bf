//go:build linux

package qemu

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// The socket is its owner's alone, replaces what was left behind, and nothing else.
func TestPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	open := func() (*Port, error) { t.Helper(); return Open(Config{Path: path}) }
	refused := func(what string) {
		t.Helper()
		p, err := open()
		var e *overlay.PortError
		if err == nil || !errors.As(err, &e) || e.Advice == "" || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q and what to do", err, what)
		}
		if p != nil {
			_ = p.Close()
		}
	}
	p, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	refused("another process listens")
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it stays there: %v", err)
	}
	leave(t, path)
	if p, err = open(); err != nil {
		t.Fatalf("after a crash: %v", err)
	}
	// What isn't its own any more stays.
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	refused("something else")
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	path = filepath.Join(dir, "none", "s")
	refused("no such file")
	path = filepath.Join(dir, strings.Repeat("x", 100))
	refused("longer than")
	if os.Geteuid() == 0 {
		path = filepath.Join(dir, "other")
		leave(t, path)
		if err := unix.Lchown(path, 1234, 1234); err != nil {
			t.Fatal(err)
		}
		refused("another user")
	}
}

// leave makes a socket where nobody listens any more.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
}
