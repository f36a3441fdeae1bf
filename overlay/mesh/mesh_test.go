package mesh

import (
	"math/rand/v2"
	"testing"
)

// Each exchange that is accepted lowers Φ, as told by the views with and without it.
func TestAcceptedMovesLowerPhi(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 60), 6)
	moves := 0
	for range 40 {
		facts := w.facts()
		w.step()
		for i := range w.agents {
			for _, x := range w.wishes[w.agents[i].ID] {
				if x.Why != Replaced {
					continue
				}
				moves++
				// facts show both links, the old one as leaving; before, they had
				// the old one only.
				before, after := facts, facts
				before.Links, after.Links = nil, nil
				for _, l := range facts.Links {
					switch k := key(facts.Agents[l.A].ID, facts.Agents[l.B].ID); k {
					case key(w.agents[i].ID, x.Peer):
						l.By = [2]Hold{Holds, Holds}
						before.Links = append(before.Links, l)
					case key(w.agents[i].ID, x.Other):
						after.Links = append(after.Links, l)
					default:
						before.Links, after.Links = append(before.Links, l), append(after.Links, l)
					}
				}
				b, a := mustView(t, before).Phi(), mustView(t, after).Phi()
				if a >= b || b-a != x.Gain {
					t.Errorf("epoch %d: an exchange changes Φ from %d to %d, said to gain %d", w.epoch-1, b, a, x.Gain)
				}
			}
		}
	}
	if moves < 20 {
		t.Errorf("only %d moves", moves)
	}
	t.Logf("%d exchanges", moves)
}

// Few agents have all links; more choose; in between those that exist stay.
func TestSizes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 3)
	among := func(n int) {
		for i := range w.present {
			w.present[i] = i < n
		}
	}
	for _, n := range []int{1, 2, 3, 9, 16} {
		among(n)
		for range 3 {
			w.step()
		}
		if want := n * (n - 1) / 2; len(w.links) != want {
			t.Errorf("%d agents have %d links, want %d", n, len(w.links), want)
		}
	}
	among(18)
	for range 60 {
		w.step()
	}
	if len(w.links) < 120+4 || w.pieces() != 1 {
		t.Errorf("18 agents, 16 of which had all links, have %d in %d pieces", len(w.links), w.pieces())
	}
	among(40)
	for e := range 150 {
		w.grows = e < 120
		w.step()
		if w.pieces() > 1 {
			t.Errorf("epoch %d: %d pieces", w.epoch, w.pieces())
		}
	}
	if len(w.links) > 40*ownLinks {
		t.Errorf("40 agents have %d links", len(w.links))
	}
	among(12)
	for range 10 {
		w.step()
	}
	if len(w.links) != 12*11/2 {
		t.Errorf("12 agents have %d links", len(w.links))
	}
}

// Agents come and go; the rest stays in one piece from the next epoch on, and holds
// neither too many links nor any with those that are gone.
func TestChurn(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		w := newWorld(t, planetLab(t, 70), seed)
		r := rand.New(rand.NewPCG(seed, 4))
		for range 15 {
			w.step()
		}
		torn := 0
		for range 60 {
			for range 2 {
				w.toggle(r.IntN(len(w.agents)))
			}
			w.step()
			if w.pieces() > 1 {
				torn++
			}
			for _, i := range w.seen {
				for _, h := range w.minds[i].Held(nil) {
					if w.view.Index(h.Peer) < 0 {
						t.Fatalf("epoch %d: a link with one who is gone", w.epoch)
					}
				}
			}
		}
		if torn > 0 {
			t.Errorf("seed %d: in pieces after %d of 60 epochs", seed, torn)
		}
	}
}

// An agent that was started anew takes up the links that its facts say it holds.
func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 8)
	for range 30 {
		w.step()
	}
	f, links := w.facts(), len(w.links)
	for i := range w.minds {
		if i%3 == 0 {
			old := w.minds[i].Held(nil)
			w.minds[i] = New(w.agents[i].ID)
			w.minds[i].Step(w.epoch, mustView(t, f), Local{})
			for _, h := range old {
				if w.minds[i].find(h.Peer) == nil {
					t.Errorf("agent %d doesn't hold its link with %d any more", i, w.index[h.Peer])
				}
			}
		}
	}
	w.epoch++
	for range 20 {
		w.step()
		if w.pieces() != 1 {
			t.Errorf("epoch %d: in pieces", w.epoch)
		}
	}
	if len(w.links) > links+2 || len(w.links) < links-2 {
		t.Errorf("%d links, before %d", len(w.links), links)
	}
}

// Pairs that can't connect, those of the ring among them, don't keep the rest in pieces.
func TestUnreachablePairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 50), 2)
	ring := mustView(t, w.facts()).ring
	for p, i := range ring {
		for d := 1; d <= 2; d++ { // the next two of each
			j := ring[(p+d)%len(ring)]
			w.rtt[i][j], w.rtt[j][i] = 0, 0
		}
	}
	for range 30 {
		w.step()
	}
	for range 20 {
		w.step()
		if w.pieces() != 1 {
			t.Errorf("epoch %d: %d pieces", w.epoch, w.pieces())
		}
	}
}

// Two halves that know of each other but have no link find one within few epochs, whoever
// may not link with whom.
func TestBridge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, planetLab(t, 40), 5)
	open := map[int]bool{3: true, 8: true, 21: true, 34: true}
	for i := range 40 {
		for j := range 40 {
			if i%2 != j%2 && (!open[i] || !open[j]) {
				w.agents[i].Rules = append(w.agents[i].Rules, Rule{Peer: j, Forbid: true})
			}
		}
	}
	for range 8 {
		w.step()
	}
	if w.pieces() != 1 {
		t.Errorf("in %d pieces", w.pieces())
	}
	why := map[Reason]int{}
	for _, m := range w.minds {
		for _, h := range m.Held(nil) {
			why[h.Why]++
		}
	}
	t.Logf("links by reason: %v", why)
}
