package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// copyKey gives an agent a key file of its own.
func copyKey(t *testing.T, key string) string {
	t.Helper()
	b, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "network.key")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// holds returns an error until a key file holds the key with a fingerprint, for its
// owner only.
func holds(key, id string) error {
	k, err := readNetwork(key)
	if err == nil && k.ID() != id {
		err = fmt.Errorf("%s holds %s, want %s", key, k.ID(), id)
	}
	return err
}

// A network changes its key while frames pass between a and b, of which none is
// lost. One that is away meanwhile learns the new key by the old one, before that is
// over; one that has the new one only gets in at once. Afterwards the old key opens
// nothing.
func TestKeyRotate(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	original := newKeyFile(t)
	keys := make(map[string]string)
	start := func(ns, name, key, listen string, more ...string) *process {
		keys[name] = copyKey(t, key)
		d := startAgentIn(t, ns, keys[name], name, append([]string{"--listen", listen, "--beacon=off"}, more...)...)
		t.Cleanup(func() {
			if said := d.said(); t.Failed() {
				t.Logf("%s said:\n%s", name, said[max(len(said)-4000, 0):])
			}
		})
		return d
	}
	a := start(s.a, "a", original, "10.77.1.1:4747", "--tap", "t")
	seed := a.bootstrap()
	b := start(s.b, "b", original, "10.77.2.1:4747", "--tap", "t", "--bootstrap", seed)
	b.bootstrap()
	s.agents = [2]*process{a, b}
	s.address(0)
	s.address(1)
	away := start(s.r, "away", original, "10.77.1.254:4747", "--bootstrap", seed)
	eventually(t, 15*time.Second, func() error { return errors.Join(a.sees(3), b.sees(3), away.sees(3)) })
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	const perSecond, most, overlap = 200, 200 * 90, 25 * time.Second
	flow, enough := make(chan numbered, 1), make(chan struct{})
	p := s.pair(t)
	go func() { flow <- p.number(enough, most, perSecond, 0) }()

	began := time.Now()
	var v rotationView
	if err := b.ask(&v, "key", "rotate", "--overlap", overlap.String()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d agents go by the new key after %v", v.Have, v.Agents, time.Since(began))
	if v.Schema != 1 || v.Have != 2 || v.Agents != 2 || len(v.Waiting) != 0 || holds(original, v.From) != nil {
		t.Errorf("rotated: %+v", v)
	}
	for _, name := range []string{"a", "b"} {
		if err := holds(keys[name], v.To); err != nil {
			t.Error(err)
		}
	}
	for _, d := range []*process{a, b} {
		st, err := d.status()
		if err != nil || st.Network != v.To || st.Rotation == nil || st.Rotation.From != v.From || !st.Rotation.Until.Equal(v.Until) {
			t.Errorf("%s: status %+v, %v", d.name, st.Rotation, err)
		}
	}
	if err := a.ask(&v, "key", "rotate"); err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "already changes its key") {
		t.Errorf("a second change at once: %v", err)
	}
	newcomer := start(s.r, "new", keys["a"], "10.77.1.254:4748", "--bootstrap", seed)
	took := eventually(t, 10*time.Second, func() error { return newcomer.sees(3) })
	t.Logf("who has the new key only is in after %v", took)
	away.start()
	took = eventually(t, 10*time.Second, func() error { return errors.Join(away.sees(4), holds(keys["away"], v.To)) })
	t.Logf("who was away knows the new key after %v", took)
	away.kill() // it remembers both
	away.start()
	eventually(t, 10*time.Second, func() error { return away.sees(4) })

	eventually(t, overlap, func() error {
		if st, err := a.status(); err != nil || st.Rotation != nil {
			return fmt.Errorf("the change goes on: %+v, %w", st.Rotation, err)
		}
		return nil
	})
	t.Logf("over after %v", time.Since(began))
	late := start(s.r, "late", original, "10.77.1.254:4749", "--bootstrap", seed)
	late.bootstrap()
	eventually(t, 5*time.Second, func() error {
		var errs []error
		for _, d := range []*process{a, b, away, newcomer} {
			errs = append(errs, d.sees(4))
			if _, err := os.Stat(keys[d.name] + oldKeysSuffix); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("%s still has the old key: %w", d.name, err))
			}
		}
		return errors.Join(errs...)
	})
	close(enough)
	n := <-flow
	t.Logf("frames while the key changed: %v", n)
	if n.err != nil || n.came != n.sent || n.late != 0 || n.sent == most {
		t.Errorf("frames while the key changed: %v, %v", n, n.err)
	}
	if err := late.sees(1); err != nil {
		t.Errorf("the old key still lets in: %v", err)
	}
}

// Two agents order a change at the same moment: all agree on one key.
func TestKeyRotateTwice(t *testing.T) {
	t.Parallel()
	original := newKeyFile(t)
	var agents []*process
	var keys []string
	seed := ""
	for _, name := range []string{"a", "b", "c"} {
		keys = append(keys, copyKey(t, original))
		args := []string{"--beacon=off"}
		if seed != "" {
			args = append(args, "--bootstrap", seed)
		}
		agents = append(agents, startAgent(t, keys[len(keys)-1], name, args...))
		seed = agents[0].bootstrap()
	}
	all := func() (errs error) {
		for _, d := range agents {
			errs = errors.Join(errs, d.sees(3))
		}
		return errs
	}
	eventually(t, 10*time.Second, all)
	ends := make(chan error, 2)
	for _, d := range agents[:2] {
		go func() { var v rotationView; ends <- d.ask(&v, "key", "rotate", "--overlap", "10m") }()
	}
	if first, second := <-ends, <-ends; first != nil && second != nil {
		t.Fatalf("neither is obeyed: %v, %v", first, second)
	}
	took := eventually(t, 10*time.Second, func() error {
		v, err := agents[0].status()
		if err != nil {
			return err
		}
		for i, d := range agents {
			st, err := d.status()
			if err != nil || st.Network != v.Network || st.Rotation == nil || st.Rotation.Have != 3 {
				return fmt.Errorf("%s: %s, %+v, %w", d.name, st.Network, st.Rotation, err)
			}
			if err := holds(keys[i], v.Network); err != nil {
				return err
			}
		}
		return all()
	})
	t.Logf("all go by one key after %v", took)
}

// What stands in the way is said, and then nothing has changed.
func TestKeyRotateRefused(t *testing.T) {
	key := newKeyFile(t)
	a := startAgent(t, key, "a")
	a.bootstrap()
	rotate := func(want string, code int, args ...string) {
		t.Helper()
		err := a.ask(new(rotationView), append([]string{"key", "rotate"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprint("exit status ", code)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	rotate("want 10s to 48h0m0s", 2, "--overlap", "9s")
	rotate("want 10s to 48h0m0s", 2, "--overlap", "49h")
	other, err := os.ReadFile(newKeyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, other, 0o600); err != nil {
		t.Fatal(err)
	}
	rotate("holds another network's key", 1)
	if err := os.WriteFile(key, before, 0o600); err != nil {
		t.Fatal(err)
	}
	old := key + oldKeysSuffix
	if err := os.MkdirAll(filepath.Join(old, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	rotate("can't be replaced", 1)
	if after, err := os.ReadFile(key); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key file changed: %v", err)
	}
	if v, err := a.status(); err != nil || v.Rotation != nil || holds(key, v.Network) != nil {
		t.Errorf("status %+v, %v", v, err)
	}
	out, err := exec.Command(program(t), "key", "rotate", "--socket", filepath.Join(t.TempDir(), "none")).CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(string(out), "farlan up") {
		t.Errorf("without an agent: %v, %s", err, out)
	}
}

// An agent that can't write the new key to its disk goes by it all the same, and
// says that it would start with the old one.
func TestKeyFileCannotBeReplaced(t *testing.T) {
	t.Parallel()
	key := newKeyFile(t)
	stuck := copyKey(t, key)
	if err := os.MkdirAll(filepath.Join(stuck+oldKeysSuffix, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	a := startAgent(t, key, "a")
	b := startAgent(t, stuck, "b", "--bootstrap", a.bootstrap())
	eventually(t, 10*time.Second, func() error { return errors.Join(a.sees(2), b.sees(2)) })
	var v rotationView
	if err := a.ask(&v, "key", "rotate"); err != nil || v.Have != 2 {
		t.Errorf("rotated: %+v, %v", v, err)
	}
	st, err := b.status()
	if h := find(st, "network key"); err != nil || st.Network != v.To || h.OK || !strings.Contains(h.Detail, "would start with the old one") || !strings.Contains(h.Hint, filepath.Dir(stuck)) {
		t.Errorf("status of %s: %+v, %v", st.Network, h, err)
	}
	if err := holds(stuck, v.From); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(stuck + oldKeysSuffix); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, func() error { return holds(stuck, v.To) })
	eventually(t, 5*time.Second, func() error {
		if st, err = b.status(); err == nil && find(st, "network key").Hint != "" {
			err = errors.New("it is still said to be in the way")
		}
		return err
	})
}

func TestKeyFiles(t *testing.T) {
	now := overlay.Instant(time.Now().UnixNano())
	newKey := func(b byte) discovery.NetworkKey {
		k, err := discovery.NewNetworkKey(bytes.NewReader(bytes.Repeat([]byte{b}, 32)))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	dir := t.TempDir()
	path, link := filepath.Join(dir, "key"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(path, newKey(1).Text(), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	ring := discovery.NewKeyring(discovery.NewNetwork(newKey(2), discovery.AdminPublic{}),
		discovery.OldKey{Key: newKey(1), Until: now.Add(time.Hour).Time().Unix()})
	if err := writeKeys(link, ring); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Error("the link is replaced, not what it leads to")
	}
	for _, p := range []string{path, path + oldKeysSuffix} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, info, err)
		}
	}
	got, warning, err := readKeys(now, link)
	if err != nil || warning != nil || len(got.Keys()) != 2 || got.Current() != ring.Current() {
		t.Errorf("read again: %v, %v, %v", got.Keys(), warning, err)
	}
	if got, _, _ := readKeys(now.Add(2*time.Hour), link); len(got.Keys()) != 1 {
		t.Errorf("%d keys after the end", len(got.Keys()))
	}
	// A crash between the two files: the old ones are of a key that isn't there.
	if err := os.WriteFile(path, newKey(1).Text(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, warning, err := readKeys(now, link); err != nil || warning != nil || len(got.Keys()) != 1 {
		t.Errorf("after a crash: %v, %v, %v", got.Keys(), warning, err)
	}
	if err := os.WriteFile(path+oldKeysSuffix, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, warning, err := readKeys(now, link); err != nil || warning == nil || len(got.Keys()) != 1 {
		t.Errorf("a torn file: %v, %v, %v", got.Keys(), warning, err)
	}
	if err := errors.Join(forgetOldKeys(link), forgetOldKeys(link)); err != nil {
		t.Error(err)
	}
}
