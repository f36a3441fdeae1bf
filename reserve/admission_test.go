package reserve

import (
	"testing"

	"farlan/overlay"
)

func TestRoom(t *testing.T) {
	a, b := overlay.AgentID{1}, overlay.AgentID{2}
	m, other := overlay.MAC{2, 1}, overlay.MAC{2, 2}
	quotas := Quotas{Owner: Quota{2, 30 * Mbit}, Peer: Quota{3, 50 * Mbit}, Station: Quota{2, 20 * Mbit}}.orDefault()
	held := []share{
		{"east", a, "ann", [2]overlay.MAC{m, other}, 10 * Mbit},
		{"west", a, "ann", [2]overlay.MAC{}, 60 * Mbit},
	}
	for _, c := range []struct {
		name string
		more []share
		want share
		free Rate
		why  Why
	}{
		{"fits", nil, share{"east", a, "bob", [2]overlay.MAC{}, 20 * Mbit}, 30 * Mbit, Nothing},
		{"the owner's rate", nil, share{"east", a, "ann", [2]overlay.MAC{}, 21 * Mbit}, 20 * Mbit, OverQuota},
		{"another agent's owner of that name", nil, share{"east", b, "ann", [2]overlay.MAC{}, 30 * Mbit}, 30 * Mbit, Nothing},
		{"the station's rate", nil, share{"east", a, "bob", [2]overlay.MAC{m}, 11 * Mbit}, 10 * Mbit, OverQuota},
		{"the other station's", nil, share{"east", a, "bob", [2]overlay.MAC{{}, other}, 11 * Mbit}, 10 * Mbit, OverQuota},
		{"the peer's rate", []share{{"east", a, "x", [2]overlay.MAC{}, 30 * Mbit}}, share{"east", a, "y", [2]overlay.MAC{}, 11 * Mbit}, 10 * Mbit, OverQuota},
		{"the egress is full", []share{{"east", b, "x", [2]overlay.MAC{}, 50 * Mbit}}, share{"east", a, "y", [2]overlay.MAC{}, 11 * Mbit}, 10 * Mbit, Full},
		{"what is nobody's counts everywhere", []share{{"", overlay.AgentID{}, "", [2]overlay.MAC{}, 55 * Mbit}}, share{"east", a, "y", [2]overlay.MAC{}, 6 * Mbit}, 5 * Mbit, Full},
		{"more than all", []share{{"east", b, "x", [2]overlay.MAC{}, 500 * Mbit}}, share{"east", a, "y", [2]overlay.MAC{}, 1}, 0, Full},
		{
			"how many a peer has",
			[]share{{"east", a, "x", [2]overlay.MAC{}, 1}, {"east", a, "y", [2]overlay.MAC{}, 1}},
			share{"east", a, "z", [2]overlay.MAC{}, 1},
			0, OverQuota,
		},
	} {
		free, why := quotas.room(100*Mbit, append(held[:2:2], c.more...), c.want)
		if why != c.why || why != Nothing && free != c.free {
			t.Errorf("%s: %v %v", c.name, free, why)
		}
	}
	if free, why := quotas.room(0, nil, share{rate: 1}); why != Full || free != 0 {
		t.Errorf("an egress of unknown capacity: %v, %v", free, why)
	}
}

// What a rate of frames takes of the underlay covers what full frames cost, and comes back.
func TestOuter(t *testing.T) {
	for relays := range maxRelays + 1 {
		for _, r := range []Rate{1, 64, 5 * Mbit, 60 * Mbit, 10 * Gbit} {
			o := Outer(r, relays)
			if back := Inner(o, relays); back < r || back > r+2 || o <= r || o > r*13/10+2 {
				t.Errorf("%v by %d relays is %v of packets, and back %v", r, relays, o, back)
			}
		}
	}
}
