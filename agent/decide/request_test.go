package decide

import (
	"bytes"
	"testing"

	"farlan/overlay/mesh"
)

func TestRequest(t *testing.T) {
	for _, r := range []request{
		{asks, 7, mesh.Full, 0}, {asks, 65535, mesh.Gain, backbone}, {accepts, 7, mesh.Ring, 0}, {refuses, 1, 0, backbone}, {refuses, 1, mesh.CapReached, 0}, {drops, 0, mesh.Quiet, 0},
	} {
		b := r.encode()
		if got, known, err := parseRequest(append(b, 0, 2, 3)); got != r || !known || err != nil {
			t.Errorf("%+v became %+v, %v, %v", r, got, known, err)
		}
		for n := range b[:requestLen] {
			if _, _, err := parseRequest(b[:n]); err == nil {
				t.Errorf("%d bytes of %+v are taken", n, r)
			}
		}
	}
	for _, b := range [][]byte{{2}, {1, 5, 0, 0, 0}, {1, 0, 0, 0, 0}} {
		if _, known, err := parseRequest(b); known || err != nil {
			t.Errorf("%v: known %v, %v; it is of a later version", b, known, err)
		}
	}
	for _, why := range []mesh.Reason{0, mesh.Forbidden, 200} {
		if _, _, err := parseRequest(request{what: asks, number: 1, why: why}.encode()); err == nil {
			t.Errorf("an ask for %v is taken", why)
		}
	}
}

// Reasons go over the wire as they are numbered.
func TestReasonsAreNumbered(t *testing.T) {
	for r, n := range map[mesh.Reason]mesh.Reason{
		mesh.Full: 1, mesh.Ring: 2, mesh.Bridge: 3, mesh.Preferred: 4, mesh.Traffic: 5, mesh.Gain: 6, mesh.Forbidden: 7, mesh.Gone: 8, mesh.CapReached: 15,
	} {
		if r != n {
			t.Errorf("%v is %d on the wire, was %d", r, r, n)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(request{asks, 7, mesh.Gain, 0}.encode())
	f.Add(request{asks, 7, mesh.Gain, backbone}.encode())
	f.Add([]byte{1, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, known, err := parseRequest(b)
		if known && err == nil && !bytes.HasPrefix(b, r.encode()) {
			t.Errorf("%v became %+v", b, r)
		}
	})
}
