package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const (
	identityFile   = "agent.key"
	rememberedFile = "peers.json"
	lockFile       = "lock"

	identityPrefix = "farlan-agent-key-1-"
	identitySumLen = 4
	maxStateFile   = 64 << 20 // a larger file is none of ours
)

// An identity is what makes an agent the same after a restart: its Ed25519
// agent key and the X25519 key of its sessions.
type identity struct {
	key    ed25519.PrivateKey
	static overlay.StaticKey
}

func (i identity) id() overlay.AgentID {
	return overlay.AgentID(i.key.Public().(ed25519.PublicKey))
}

// A state is an agent's folder: its identity, and the records of its peers. One
// agent at a time holds it.
type state struct {
	dir  string
	lock *os.File
	made []string // files and folders that were made since it was opened, to undo
}

// openState makes the folder if it is missing and locks it.
func openState(dir string) (*state, error) {
	s := &state{dir: dir}
	if err := s.makeDir(); err != nil {
		return nil, hintf("give a folder that this user may write with --state-dir")("state folder: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		s.made = append(s.made, path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		s.undo()
		return nil, hintf("give a folder that this user may write with --state-dir")("state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		b := make([]byte, 20)
		n, _ := f.Read(b)
		who := "another farlan"
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
			who = fmt.Sprintf("another farlan (process %d)", pid)
		}
		return nil, hintf("stop that one, or give this one a folder of its own with --state-dir")("state folder %s: in use by %s", dir, who)
	}
	s.lock = f
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message above only
	}
	return s, nil
}

func (s *state) makeDir() (err error) {
	s.made, err = makeDirs(s.dir, 0o700)
	return err
}

// makeDirs makes a folder and those above it that are missing, and returns which
// it made, the outermost first. On an error it has made none.
func makeDirs(path string, mode os.FileMode) (made []string, err error) {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		made = append([]string{dir}, made...)
	}
	if err := os.MkdirAll(path, mode); err != nil {
		removeDirs(made)
		return nil, err
	}
	return made, nil
}

// removeDirs removes what makeDirs made, as long as nothing else is in it.
func removeDirs(made []string) {
	for _, dir := range slices.Backward(made) {
		_ = os.Remove(dir)
	}
}

// close gives the folder free.
func (s *state) close() { _ = s.lock.Close() }

// settle lets stay what was made.
func (s *state) settle() { s.made = nil }

// undo gives the folder free and removes what was made, as long as nothing else
// is in it.
func (s *state) undo() {
	if s.lock != nil {
		s.close()
	}
	removeDirs(s.made)
}

// identity reads the agent's keys, or makes and keeps them at the first start.
// A damaged file is an error: an agent never changes its identity by itself.
func (s *state) identity() (identity, error) {
	path := filepath.Join(s.dir, identityFile)
	b, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return s.newIdentity(path)
	}
	if err != nil {
		return identity{}, hintf("see that this user may read it")("identity: %w", err)
	}
	id, err := parseIdentity(b)
	if err != nil {
		return identity{}, hintf("restore the file from a backup; or move it away, and this agent starts as a new one")("identity %s: %w", path, err)
	}
	return id, nil
}

func (s *state) newIdentity(path string) (identity, error) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails, crypto/rand
	static, err := overlay.NewStaticKey(rand.Reader)
	if err != nil {
		return identity{}, err
	}
	secret := append(seed, static.Private[:]...)
	text := identityPrefix + base64.RawURLEncoding.EncodeToString(append(secret, identitySum(secret)...)) + "\n"
	if err := writeFile(path, []byte(text)); err != nil {
		return identity{}, hintf("see that this user may write there")("identity: %w", err)
	}
	s.made = append(s.made, path)
	return identity{ed25519.NewKeyFromSeed(seed[:ed25519.SeedSize]), static}, nil
}

func identitySum(secret []byte) []byte {
	sum := sha256.Sum256(append([]byte(identityPrefix), secret...))
	return sum[:identitySumLen]
}

var errIdentity = errors.New("not an agent key, or damaged")

func parseIdentity(b []byte) (identity, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(string(b)), identityPrefix)
	if !ok {
		return identity{}, errIdentity
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != ed25519.SeedSize+32+identitySumLen {
		return identity{}, errIdentity
	}
	secret, sum := raw[:ed25519.SeedSize+32], raw[ed25519.SeedSize+32:]
	if !bytes.Equal(sum, identitySum(secret)) {
		return identity{}, errIdentity
	}
	static, err := overlay.StaticKeyFrom([32]byte(secret[ed25519.SeedSize:]))
	if err != nil {
		return identity{}, errIdentity
	}
	return identity{ed25519.NewKeyFromSeed(secret[:ed25519.SeedSize]), static}, nil
}

// remembered is the file of what an agent knew when it stopped.
type remembered struct {
	Format  int      `json:"format"`
	Network string   `json:"network"`
	Records [][]byte `json:"records"` // signed, as they came; base64
	// Claims are who has which one-time invite of a signed network.
	Claims [][]byte `json:"claims,omitempty"`
	// Area is the one that this agent was in, 0 if the network isn't divided.
	Area uint32 `json:"area,omitempty"`
	// Links are this agent's own record of its links, if it told any.
	Links [][]byte `json:"links,omitempty"`
}

// load returns what is remembered of a network, by any of its names. A file that
// can't be read is kept aside and reported; one of another network is too.
func (s *state) load(now time.Time, names ...string) (remembered, error) {
	path := filepath.Join(s.dir, rememberedFile)
	b, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return remembered{}, nil
	}
	var r remembered
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	switch {
	case err != nil:
	case r.Format != 1:
		err = fmt.Errorf("format %d is unknown", r.Format)
	case !slices.Contains(names, r.Network):
		err = fmt.Errorf("it is of network %s, this one is %s", r.Network, names[0])
	default:
		return r, nil
	}
	return remembered{}, putAside(path, "remembered peers", now, err)
}

// save replaces what is remembered.
func (s *state) save(r remembered) error {
	r.Format = 1
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(s.dir, rememberedFile), b)
}

// readBounded reads a file of at most maxStateFile bytes.
func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStateFile || !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: syscall.EFBIG}
	}
	return os.ReadFile(path)
}

// writeFile replaces a file by one that is complete and on the disk, readable
// by its owner only: a crash leaves the old one or the new one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(path)
}
