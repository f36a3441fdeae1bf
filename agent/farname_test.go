package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lookUp looks for an agent by what it is called.
func (w *town) lookUp(from int, name string) (p *peer, refused *failure) {
	w.t.Helper()
	done := false
	go func() {
		p, refused = w.homes[from].n.lookFor(w.t.Context(), name)
		done = true
	}()
	for began := time.Now(); !done; {
		if w.run(100 * time.Millisecond); time.Since(began) > summonFor+2*time.Second {
			w.t.Fatalf("%s is looked for without end", name)
		}
	}
	return p, refused
}

// Agents of other areas are found by name. Who takes another one's name isn't taken for it: the
// answer names both.
func TestFarAgentsByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, 20, few, func(i int) uint32 { return uint32(1 + i/7) })
		w.run(70 * time.Second)
		gates := w.gateways()
		var far []int // of each of two other areas two that are no gateways
		for i := 7; i < len(w.homes); i++ {
			if is := w.homes[i].n.area.gate != nil; !is && (len(far) < 2 || i >= 14 && len(far) < 4) {
				far = append(far, i)
			}
		}
		t.Logf("gateways %v, others %v", gates, far)
		victim, liar := far[0], far[len(far)-1]
		name := w.homes[victim].n.cfg.Name
		if p, refused := w.lookUp(0, name); refused != nil || p == nil || p.id != w.homes[victim].n.self {
			t.Fatalf("%s is %v, %v", name, p, refused)
		}
		if p, refused := w.lookUp(0, "nobody"); p != nil || refused != nil {
			t.Errorf("nobody is %v, %v", p, refused)
		}
		w.homes[liar].n.cfg.Name, w.homes[liar].n.own.member = name, 0
		w.run(10 * time.Second)
		p, refused := w.lookUp(1, name)
		if p != nil || refused == nil {
			t.Fatalf("%s is %v", name, p)
		}
		for _, i := range []int{victim, liar} {
			if id := w.homes[i].n.self.String(); !strings.Contains(refused.Error(), id) {
				t.Errorf("%q doesn't name %s", refused, id)
			}
			if p, refused := w.lookUp(1, w.homes[i].n.self.String()); refused != nil || p == nil || w.index[p.id] != i {
				t.Errorf("by id: %v, %v", p, refused)
			}
		}
	})
}
