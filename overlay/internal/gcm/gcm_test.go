package gcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
)

// pair returns Go's AES-256-GCM and ours with one key. On a processor without
// wide instructions the two are one, and the tests show little: they say so.
func pair(t testing.TB, key []byte) (theirs, ours cipher.AEAD) {
	t.Helper()
	if !wide {
		t.Log("this processor has no wide AES: ours is Go's")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	ours, err = New(key)
	if err != nil {
		t.Fatal(err)
	}
	return theirs, ours
}

// same fails unless both seal text alike and open what the other sealed, in
// place and elsewhere.
func same(t *testing.T, theirs, ours cipher.AEAD, nonce, text, additional []byte) {
	t.Helper()
	n := len(text)
	want := theirs.Seal(nil, nonce, text, additional)
	place := append(make([]byte, 0, n+tagBytes), text...)
	for what, got := range map[string][]byte{
		"in place":  ours.Seal(place[:0], nonce, place, additional),
		"elsewhere": ours.Seal(make([]byte, 0, n+tagBytes), nonce, text, additional),
		"no room":   ours.Seal(nil, nonce, text, additional),
		"behind":    ours.Seal(make([]byte, 3, n+tagBytes+3), nonce, text, additional)[3:],
	} {
		if !bytes.Equal(got, want) {
			t.Fatalf("sealed %d bytes with %d more, %s:\n%x\n%x expected", n, len(additional), what, got, want)
		}
	}
	place = bytes.Clone(want)
	for what, open := range map[string]func() ([]byte, error){
		"elsewhere": func() ([]byte, error) { return ours.Open(make([]byte, 0, n), nonce, want, additional) },
		"no room":   func() ([]byte, error) { return ours.Open(nil, nonce, want, additional) },
		"in place":  func() ([]byte, error) { return ours.Open(place[:0], nonce, place, additional) },
	} {
		got, err := open()
		if err != nil || !bytes.Equal(got, text) {
			t.Fatalf("opened %d bytes with %d more, %s: %v\n%x\n%x expected", n, len(additional), what, err, got, text)
		}
	}
}

const tagBytes = 16

// source returns a function that makes n random bytes.
func source(seed byte) func(n int) []byte {
	r := rand.NewChaCha8([32]byte{seed})
	return func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
}

func TestSameAtEveryLength(t *testing.T) {
	random := source(1)
	for range 4 {
		theirs, ours := pair(t, random(32))
		for n := range 1200 {
			same(t, theirs, ours, random(12), random(n), random(16))
		}
		for _, n := range []int{1440, 8968, 9001, 1<<16 - 1, 1 << 16, 1<<16 + 1, 1 << 17} {
			same(t, theirs, ours, random(12), random(n), random(16))
		}
		for n := range 40 {
			same(t, theirs, ours, random(12), random(77), random(n))
		}
	}
}

// TestSameWithOddKeys takes keys and texts of few different bits: carries out
// of H and of the counters.
func TestSameWithOddKeys(t *testing.T) {
	for _, fill := range []byte{0, 0xff, 0x80, 1} {
		b := bytes.Repeat([]byte{fill}, 600)
		theirs, ours := pair(t, b[:32])
		for n := range 600 {
			same(t, theirs, ours, b[:12], b[:n], b[:16])
		}
	}
	random := source(2)
	for range 2000 {
		theirs, ours := pair(t, random(32))
		same(t, theirs, ours, random(12), random(300), random(16))
	}
}

func TestKeyOfAnotherLength(t *testing.T) {
	for n := range 40 {
		_, err := New(make([]byte, n))
		if (err == nil) != (n == 16 || n == 24 || n == 32) {
			t.Errorf("key of %d bytes: %v", n, err)
		}
	}
}

// TestForged flips every bit of what is authenticated.
func TestForged(t *testing.T) {
	random := source(3)
	_, ours := pair(t, random(32))
	for _, n := range []int{1, 15, 16, 100, 255, 256, 257, 600} {
		nonce, additional := random(12), random(16)
		sealed := ours.Seal(nil, nonce, random(n), additional)
		for _, b := range [][]byte{nonce, additional, sealed} {
			for bit := range 8 * len(b) {
				b[bit/8] ^= 1 << (bit % 8)
				out := bytes.Repeat([]byte{1}, n)
				if _, err := ours.Open(out[:0], nonce, sealed, additional); err == nil {
					t.Fatalf("%d bytes: bit %d of %d flipped, opened all the same", n, bit, 8*len(b))
				}
				if !bytes.Equal(out, make([]byte, n)) {
					t.Fatalf("%d bytes: a forged datagram left %x", n, out)
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		}
		for short := range len(sealed) {
			if _, err := ours.Open(nil, nonce, sealed[:short], additional); err == nil {
				t.Fatalf("%d of %d bytes opened", short, len(sealed))
			}
		}
	}
}

// TestTouchesNothingElse puts texts right before a page that can't be read, and
// right behind one.
func TestTouchesNothingElse(t *testing.T) {
	const page = 4096
	b, err := syscall.Mmap(-1, 0, 3*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Munmap(b) }()
	for _, forbidden := range [][]byte{b[:page], b[2*page:]} {
		if err := syscall.Mprotect(forbidden, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	middle := b[page : 2*page : 2*page]
	random := source(4)
	theirs, ours := pair(t, random(32))
	nonce, additional := random(12), random(16)
	for n := range 700 {
		text := random(n)
		want := theirs.Seal(nil, nonce, text, additional)
		for _, at := range []int{0, page - n - tagBytes} {
			fill(middle, 0x5a)
			part := middle[at : at+n+tagBytes : at+n+tagBytes]
			copy(part, text)
			ours.Seal(part[:0], nonce, part[:n], additional)
			if !bytes.Equal(part, want) || !around(middle, at, len(part), 0x5a) {
				t.Fatalf("sealing %d bytes at %d", n, at)
			}
			if _, err := ours.Open(part[:0], nonce, part, additional); err != nil ||
				!bytes.Equal(part[:n], text) || !bytes.Equal(part[n:], want[n:]) || !around(middle, at, len(part), 0x5a) {
				t.Fatalf("opening %d bytes at %d: %v", n, at, err)
			}
		}
	}
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

// around says whether all of b but n bytes at at is still what it was filled with.
func around(b []byte, at, n int, with byte) bool {
	return len(bytes.Trim(b[:at], string(rune(with)))) == 0 && len(bytes.Trim(b[at+n:], string(rune(with)))) == 0
}

func TestDoesNotAllocate(t *testing.T) {
	random := source(5)
	_, ours := pair(t, random(32))
	nonce, additional, b := random(12), random(16), random(1456)
	if n := testing.AllocsPerRun(100, func() {
		ours.Seal(b[:0], nonce, b[:1440], additional)
		if _, err := ours.Open(b[:0], nonce, b, additional); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzSame(f *testing.F) {
	f.Add(make([]byte, 32), make([]byte, 12), make([]byte, 16), make([]byte, 300))
	f.Add(bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0xff}, 12), []byte("sixteen bytes ad"), bytes.Repeat([]byte{7}, 513))
	f.Fuzz(func(t *testing.T, key, nonce, additional, text []byte) {
		if len(key) != 32 || len(nonce) != 12 {
			return
		}
		theirs, ours := pair(t, key)
		same(t, theirs, ours, nonce, text, additional)
		// And what comes from a stranger.
		a, errA := theirs.Open(nil, nonce, text, additional)
		b, errB := ours.Open(nil, nonce, text, additional)
		if (errA == nil) != (errB == nil) || !bytes.Equal(a, b) {
			t.Fatalf("%v, %v", errA, errB)
		}
	})
}

// BenchmarkSeal and BenchmarkOpen: datagrams of a ping, of a full path MTU and
// of a jumbo one.
func BenchmarkSeal(b *testing.B) {
	benchmark(b, func(a cipher.AEAD, nonce, buf, additional []byte, n int) {
		a.Seal(buf[:0], nonce, buf[:n], additional)
	})
}

func BenchmarkOpen(b *testing.B) {
	benchmark(b, func(a cipher.AEAD, nonce, buf, additional []byte, n int) {
		// A forged one costs as much, and the next turn has the same.
		_, _ = a.Open(buf[:0], nonce, buf[:n+tagBytes], additional)
	})
}

func benchmark(b *testing.B, do func(a cipher.AEAD, nonce, buf, additional []byte, n int)) {
	theirs, ours := pair(b, make([]byte, 32))
	for _, n := range []int{104, 1440, 8968} {
		buf, nonce, additional := make([]byte, n+tagBytes), make([]byte, 12), make([]byte, 16)
		for _, which := range []struct {
			name string
			aead cipher.AEAD
		}{{"go", theirs}, {"ours", ours}} {
			b.Run(fmt.Sprintf("%d/%s", n, which.name), func(b *testing.B) {
				b.SetBytes(int64(n))
				for range b.N {
					do(which.aead, nonce, buf, additional, n)
				}
			})
		}
	}
}
