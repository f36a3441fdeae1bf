package reserve

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
)

func someMessage() message {
	return message{
		kind: ask, declared: true, state: Held, why: Full, promise: Guarantee, id: ID{[16]byte{1, 2, 3}, 4}, epoch: 7, number: 9,
		lease: 90 * time.Second, rate: 60 * Mbit, free: 5 * Mbit, next: overlay.AgentID{3}, prev: overlay.AgentID{4}, label: 5, onward: 6, stacked: true, text: "ann",
		flow: Flow{overlay.AgentID{1}, overlay.AgentID{2}, overlay.MAC{2, 1}, overlay.MAC{2, 2}},
	}
}

func TestMessage(t *testing.T) {
	m := someMessage()
	b := m.encode()
	if got, known, err := parseMessage(append(b, 1, 2, 3)); err != nil || !known || got != m {
		t.Errorf("%+v, %v, %v", got, known, err)
	}
	for what, change := range map[string]func(b []byte){
		"no kind":              func(b []byte) { b[1] = 0 },
		"no such state":        func(b []byte) { b[3] = byte(Orphan) + 1 },
		"no such reason":       func(b []byte) { b[4] = byte(whys) },
		"no such kind":         func(b []byte) { b[5] = byte(Priority) + 1 },
		"a long text":          func(b []byte) { b[7] = maxText + 1 },
		"a text that isn't":    func(b []byte) { b[7] = 4 },
		"the last epoch":       func(b []byte) { b[24] = 0x40 },
		"a long lease":         func(b []byte) { b[36] = 1 },
		"a negative rate":      func(b []byte) { b[40] = 0x80 },
		"an enormous one":      func(b []byte) { b[41] = 1 },
		"a negative free rate": func(b []byte) { b[48] = 0x80 },
		"from nobody":          func(b []byte) { clear(b[56:88]) },
		"to itself":            func(b []byte) { copy(b[88:120], b[56:88]) },
		"from a group":         func(b []byte) { b[152] |= 1 },
	} {
		x := bytes.Clone(b)
		if change(x); what != "" {
			if got, known, err := parseMessage(x); err == nil && known {
				t.Errorf("%s: %+v", what, got)
			}
		}
	}
	for n := range b {
		if _, known, err := parseMessage(b[:n]); err == nil && known {
			t.Errorf("%d bytes are enough", n)
		}
	}
	m.text = strings.Repeat("\x1b", 100)
	if got, _, err := parseMessage(m.encode()); err != nil || got.text != strings.Repeat("_", maxText) {
		t.Errorf("%q, %v", got.text, err)
	}
	later := bytes.Clone(b)
	later[0]++
	if _, known, err := parseMessage(later); known || err != nil {
		t.Error("a later version is malformed")
	}
}

func FuzzMessage(f *testing.F) {
	m := someMessage()
	f.Add(m.encode())
	m.kind, m.text = yield, ""
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, known, err := parseMessage(b)
		if err != nil || !known {
			return
		}
		if again, ok, err := parseMessage(got.encode()); err != nil || !ok || again != got {
			t.Errorf("%+v, then %+v, %v", got, again, err)
		}
	})
}
