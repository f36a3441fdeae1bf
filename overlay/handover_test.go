package overlay

import (
	"bytes"
	"testing"
	"time"
)

func TestHandoverFrames(t *testing.T) {
	h := Handover{HandoverPrepare, mac(1), 90 * time.Second}
	f := AppendHandover(nil, h)
	if !IsHandover(f) || !IsClaims(f) {
		t.Error("it isn't one")
	}
	if got, ok := ParseHandover(append(f, make([]byte, 40)...)); !ok || got != h {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, _, ok := ParseClaims(f, nil); ok {
		t.Error("claims")
	}
	for what, change := range map[string]func(b []byte){
		"no kind":      func(b []byte) { b[15] = 0 },
		"another kind": func(b []byte) { b[15] = byte(handoverKinds) },
		"a group":      func(b []byte) { b[6] |= 1 },
		"nobody":       func(b []byte) { clear(b[6:12]) },
		"for ever":     func(b []byte) { b[16] = 0xff },
	} {
		b := bytes.Clone(f)
		if change(b); !IsHandover(b) {
			t.Errorf("%s: it isn't one", what)
		} else if h, ok := ParseHandover(b); ok {
			t.Errorf("%s: %+v", what, h)
		}
	}
	if IsHandover(f[:len(f)-1]) {
		t.Error("too short")
	}
}

func FuzzHandover(f *testing.F) {
	f.Add(AppendHandover(nil, Handover{HandoverAbort, mac(1), 0}))
	f.Add(AppendClaims(nil, []Claim{{MAC: mac(1), Sequence: 1}}, true))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !IsHandover(frame) {
			return
		}
		if h, ok := ParseHandover(frame); ok && !bytes.Equal(AppendHandover(nil, h), frame[:handoverLen]) {
			t.Errorf("%+v isn't %x", h, frame)
		}
	})
}

// What a hypervisor that runs may have read isn't given out, whatever it reads between samples,
// and of what came after it stopped only the first.
func TestKept(t *testing.T) {
	var k Kept
	now, reads := Instant(time.Hour), uint64(7)
	sample := func(read uint64) {
		reads += read
		k.Sample(now, func() (uint64, bool) { return reads, true })
	}
	keep := func(names ...byte) {
		for _, n := range names {
			k.Keep(now, &Frame{Head: []byte{n}})
		}
	}
	want := func(names string) {
		t.Helper()
		var got []byte
		for _, f := range k.Take() {
			got = append(got, f.Head...)
		}
		if string(got) != names {
			t.Errorf("%q is left, want %q", got, names)
		}
	}
	keep('a', 'b')
	sample(0) // nobody knows what was read before
	keep('c')
	sample(0)
	keep('d', 'e')
	want("cde")
	keep('a', 'b')
	sample(1) // it may be in between, or they came after others
	keep('c')
	sample(0)
	want("c")
	keep('a', 'b', 'c')
	sample(2)
	want("")
	for _, n := range "abcde" { // it has stopped
		keep(byte(n))
		now = now.Add(10 * time.Millisecond)
		sample(0)
	}
	sample(1) // and takes one more
	keep('f')
	sample(0)
	want("bcdef")
	keep('a', 'b')
	now = now.Add(time.Second)
	sample(1)
	keep('c')
	now = now.Add(time.Second)
	sample(1) // no: it runs
	want("")
	keep('x') // the host drops it
	now = now.Add(time.Second)
	keep('a')
	sample(1)
	keep('b')
	want("b")
	keep('a')
	k.Sample(now, func() (uint64, bool) { return 0, false }) // the TAP is gone
	want("a")
	want("")
}

func TestKeptIsBounded(t *testing.T) {
	var k Kept
	dropped := 0
	for range keptFrames + 100 {
		dropped += k.Keep(0, &Frame{Head: make([]byte, 60)})
	}
	if n := len(k.Take()); n != keptFrames || dropped != 100 {
		t.Errorf("%d are kept, %d dropped", n, dropped)
	}
	dropped = 0
	for range 100 {
		dropped += k.Keep(0, &Frame{Head: make([]byte, 60), Body: [][]byte{make([]byte, 64<<10)}})
	}
	if n := len(k.Take()); n != keptBytes/(64<<10+60) || n+dropped != 100 {
		t.Errorf("%d long ones are kept, %d dropped", n, dropped)
	}
}
