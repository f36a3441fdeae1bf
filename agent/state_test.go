package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStateKeepsTheIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "in use by another farlan (process ") {
		t.Errorf("a second agent in the same folder: %v", err)
	}
	s.close()
	if s, err = openState(dir); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	second, err := s.identity()
	if err != nil || first.id() != second.id() || first.static != second.static {
		t.Errorf("another identity after a restart: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, identityFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the identity's file: %v, %v", info.Mode(), err)
	}
}

func TestDamagedIdentityIsNeverReplaced(t *testing.T) {
	dir := t.TempDir()
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := s.identity(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, identityFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "garbage", string(good[:len(good)/2]), strings.Replace(string(good), "key-1-", "key-2-", 1), string(good[:30]) + "A" + string(good[31:])} {
		if bad == string(good) {
			continue
		}
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.identity(); err == nil || hintOf(err) == "" {
			t.Errorf("identity %q was taken: %v", bad, err)
		}
		if b, _ := os.ReadFile(path); string(b) != bad {
			t.Errorf("a damaged identity was replaced")
		}
	}
}

func TestTornPeersAreKeptAside(t *testing.T) {
	dir := t.TempDir()
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if known, err := s.load(time.Unix(1, 0), "net"); err != nil || known.Records != nil {
		t.Errorf("a new folder: %v, %v", known, err)
	}
	if err := s.save(remembered{Network: "net", Records: [][]byte{{1, 2}, {3}}, Claims: [][]byte{{4}}, Links: [][]byte{{5}}}); err != nil {
		t.Fatal(err)
	}
	if known, err := s.load(time.Unix(1, 0), "net"); err != nil || len(known.Records) != 2 || len(known.Claims) != 1 || len(known.Links) != 1 {
		t.Errorf("%v, %v", known, err)
	}
	if _, err := s.load(time.Unix(2, 0), "other"); err == nil || !strings.Contains(err.Error(), "of network net") {
		t.Errorf("another network's peers: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, rememberedFile), []byte(`{"format":1,"netw`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(time.Unix(3, 0), "net"); err == nil {
		t.Error("a torn file was taken")
	}
	aside, err := filepath.Glob(filepath.Join(dir, rememberedFile+".aside-*"))
	if err != nil || len(aside) != 2 {
		t.Errorf("kept aside: %v, %v", aside, err)
	}
}

func TestFailedStartUndoesTheFolder(t *testing.T) {
	base := t.TempDir()
	s, err := openState(filepath.Join(base, "x", "y"))
	if err != nil {
		t.Fatal(err)
	}
	s.undo()
	if left, _ := filepath.Glob(filepath.Join(base, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A slow disk doesn't hold up the loop for more than a twentieth of its time, nor the
// members' being remembered for more than five seconds.
func TestRememberEvery(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: 500 * time.Millisecond, 5 * time.Millisecond: 500 * time.Millisecond, 25 * time.Millisecond: 500 * time.Millisecond,
		100 * time.Millisecond: 2 * time.Second, time.Second: 5 * time.Second, time.Minute: 5 * time.Second,
	} {
		if got := rememberEvery(took); got != want {
			t.Errorf("writing takes %v: every %v, want %v", took, got, want)
		}
	}
}
