package overlay

import (
	"bytes"
	"testing"
)

func FuzzRespond(f *testing.F) {
	a, b := newShaker(f, 'a', 1, true), newShaker(f, 'b', 1, true)
	_, d := initiate(f, a, b)
	f.Add(d, false)
	f.Add(d[:noiseStart], true)
	f.Fuzz(func(t *testing.T, e []byte, member bool) {
		if member {
			e = signed(b.Handshaker, over(d, e))
		}
		if s, r, err := b.Respond(2000, e, knows(a), 9, b.rand); (err == nil) != bytes.Equal(e, d) || (s == nil) != (err != nil) || (r == nil) != (err != nil) {
			t.Fatalf("respond to %x: %v", e, err)
		}
	})
}

func FuzzFinish(f *testing.F) {
	a, b := newShaker(f, 'a', 1, true), newShaker(f, 'b', 1, true)
	_, d := initiate(f, a, b)
	// Respond would make another one in each of the fuzzer's processes.
	payload := make([]byte, responsePayload)
	payload[0], payload[4] = byte(SuiteAES), 9
	r := crafted(f, b, d, payload)
	f.Add(r, false)
	f.Add(r, true)
	f.Add(r[:noiseStart], true)
	f.Fuzz(func(t *testing.T, e []byte, member bool) {
		a := newShaker(t, 'a', 1, true)
		i, _ := initiate(t, a, b)
		if member {
			e = signed(a.Handshaker, over(r, e))
		}
		s, err := i.Finish(3000, e)
		if (s == nil) != (err != nil) || err == nil && !bytes.Equal(e[noiseStart:], r[noiseStart:]) {
			t.Fatalf("finish with %x: %v", e, err)
		}
		if err != nil {
			if _, err := i.Finish(3000, r); err != nil {
				t.Fatalf("the true response is refused: %v", err)
			}
		}
	})
}

func BenchmarkHandshake(b *testing.B) {
	x, y := newShaker(b, 'a', 1, true), newShaker(b, 'b', 1, true)
	i, d := initiate(b, x, y)
	b.Run("initiate", func(b *testing.B) {
		for b.Loop() {
			initiate(b, x, y)
		}
	})
	b.Run("respond", func(b *testing.B) {
		for b.Loop() {
			respond(b, x, y, d)
		}
	})
	b.Run("finish", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			i, d := initiate(b, x, y)
			_, r := respond(b, x, y, d)
			b.StartTimer()
			if _, err := i.Finish(3000, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			i.Again()
		}
	})
}

// BenchmarkGenuine is the cost of a datagram of an outsider.
func BenchmarkGenuine(b *testing.B) {
	x, y := newShaker(b, 'a', 1, true), newShaker(b, 'b', 1, true)
	_, d := initiate(b, x, y)
	d[100]++
	b.ReportAllocs()
	for b.Loop() {
		if y.Genuine(d) {
			b.Fatal("genuine")
		}
	}
}
