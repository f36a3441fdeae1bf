package mesh

import "testing"

// An agent that comes to others who have come to rest is linked by those whose duty it is,
// and by itself: that there is no way to it yet is no reason for everybody to exchange a
// link for one with it.
func TestNewcomerIsNotMobbed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 60), 5)
	w.all = true
	for range 40 {
		w.step()
	}
	for who := range 10 {
		w.toggle(who)
		for range 4 {
			w.step()
		}
		w.toggle(who)
		w.step() // it has no link yet
		asked := 0
		for id, wishes := range w.wishes {
			for _, x := range wishes {
				if x.Do == Add && x.Peer == w.agents[who].ID && id != x.Peer {
					asked++
				}
			}
		}
		if asked > 3 { // the one before it in the ring, a bridge, and who went past it in the ring so far
			t.Errorf("agent %d came, and %d wished a link with it at once", who, asked)
		}
		for range 3 {
			w.step()
		}
		if p := w.pieces(); p != 1 {
			t.Errorf("agent %d came, and links leave %d pieces 4 epochs later", who, p)
		}
	}
}
