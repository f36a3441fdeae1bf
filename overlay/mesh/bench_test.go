package mesh

import "testing"

// What an agent of 490 pays in an epoch: for the view, and for a turn with 24 candidates.
func BenchmarkEpoch(b *testing.B) {
	w := newWorld(b, planetLab(b, 490), 1)
	w.noise = 0.03
	for range 20 {
		w.step()
	}
	f := w.facts()
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := NewView(f); err != nil {
				b.Fatal(err)
			}
		}
	})
	v := mustView(b, f)
	b.Run("turn", func(b *testing.B) {
		i := 0
		for b.Loop() {
			c := New(w.agents[i].ID)
			c.habits.share = 1<<64 - 1
			c.Step(0, v, Local{})
			for j := range c.held {
				c.held[j].Since = -dwell
			}
			c.Step(1, v, Local{Candidates: w.candidates(i)})
			i = (i + 1) % len(w.agents)
		}
	})
	b.Run("nominees", func(b *testing.B) {
		i := 0
		for b.Loop() {
			v.Nominees(i, 1, w.told[i], nil)
			i = (i + 1) % len(w.agents)
		}
	})
}
