package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"farlan/overlay"
)

// Who claims stations without end takes neither the loop's time nor others' stations for long:
// claims beyond a budget aren't read, and doctor names him. Others are believed meanwhile.
func TestClaimStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 4, 4, 0)
		v.run(5 * time.Second)
		victim := v.homes[0].n
		own := overlay.MAC{2, 0, 0, 0, 9, 1}
		v.says(0, own, overlay.Broadcast)
		v.run(time.Second)
		for range 5 {
			victim.sw.Stations.Claim(own)
		}
		storm := v.peer(0, 3)
		in := newInbound(victim, 0)
		in.view, in.open = victim.view.Load(), storm
		events, frames := 0, 0
		for range 100 { // 100,000 a second: of ever others, and old ones of this agent's own, which are answered
			in.now = victim.now()
			waited := len(victim.mail.events)
			for range 500 {
				m := overlay.MAC{2, 6, 0, byte(frames >> 16), byte(frames >> 8), byte(frames)}
				for _, c := range []overlay.Claim{{MAC: own, Sequence: 1}, {MAC: m, Sequence: 1}} {
					in.Frame(&overlay.Frame{Head: overlay.AppendClaims(nil, []overlay.Claim{c}, false)})
					frames++
				}
			}
			events += len(victim.mail.events) - waited
			v.run(10 * time.Millisecond)
		}
		const most = maxClaimBurst + 2*maxClaimRate
		if taken := frames - int(victim.drops.count(overlay.DropClaimStorm)); taken > most {
			t.Errorf("%d of %d frames are taken", taken, frames)
		}
		if events > most {
			t.Errorf("the loop had %d events", events)
		}
		if got := len(victim.stationsAt(storm.place())); got > overlay.AgentStations {
			t.Errorf("%d stations are remembered", got)
		}
		found := victim.guardFindings(victim.now())
		if len(found) != 1 || !strings.Contains(found[0].Detail, "storm of claims") || !strings.Contains(found[0].Detail, "home-3") || found[0].Fix == "" {
			t.Errorf("%+v", found)
		}
		vm := overlay.MAC{2, 0, 0, 0, 9, 2}
		v.says(1, vm, overlay.Broadcast)
		v.run(time.Second)
		v.says(2, vm, overlay.MAC{2, 9})
		v.run(time.Second)
		if at := v.at(0, vm); at != 2 {
			t.Errorf("a station that moves meanwhile is at %d", at)
		}
		for i := range v.homes {
			if at := v.at(i, own); at != 0 && i != 3 {
				t.Errorf("agent %d has the station that was claimed at %d", i, at)
			}
		}
	})
}

// An honest agent may claim all stations of a full LAN at once, as one that takes it over does,
// and again and again as claims are.
func TestHonestClaims(t *testing.T) {
	var b claimBudget
	now := overlay.Instant(time.Hour)
	for range overlay.AgentStations / overlay.MaxClaims {
		if !b.allow(now, overlay.MaxClaims) {
			t.Fatal("a LAN is too many")
		}
	}
	for range 30 {
		now = now.Add(time.Second)
		if !b.allow(now, claimRate*int64(1+len(claimAgain))) {
			t.Fatal("what it claims a second is too much")
		}
	}
}
