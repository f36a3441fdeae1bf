package discovery

import (
	"testing"
	"time"
)

func TestPulse(t *testing.T) {
	type look struct {
		second         int
		sent, received uint64
		dead           bool
	}
	for name, c := range map[string]struct {
		rtt   time.Duration
		looks []look
	}{
		"idle":                          {time.Millisecond, []look{{0, 10, 10, false}, {1, 10, 10, false}, {2, 10, 10, false}, {3, 10, 10, false}, {4, 10, 10, false}}},
		"only acknowledged":             {time.Millisecond, []look{{0, 10, 10, false}, {1, 12, 10, false}, {2, 12, 10, false}, {3, 12, 10, false}, {4, 12, 10, false}, {5, 12, 10, false}}},
		"cut":                           {time.Millisecond, []look{{0, 10, 10, false}, {1, 13, 10, false}, {2, 15, 10, false}, {3, 17, 10, true}}},
		"cut, and sent to later":        {time.Millisecond, []look{{0, 10, 10, false}, {1, 10, 10, false}, {2, 10, 10, false}, {3, 14, 10, false}, {4, 16, 10, false}, {5, 18, 10, true}}},
		"answers late":                  {time.Millisecond, []look{{0, 10, 10, false}, {1, 13, 10, false}, {2, 15, 11, false}, {3, 17, 11, false}, {4, 19, 11, false}, {5, 21, 11, true}}},
		"a long way":                    {900 * time.Millisecond, []look{{0, 10, 10, false}, {1, 13, 10, false}, {2, 15, 10, false}, {3, 17, 10, false}, {4, 17, 10, false}, {5, 18, 11, false}}},
		"wasn't looked at":              {time.Millisecond, []look{{0, 10, 10, false}, {1, 13, 10, false}, {60, 40, 10, false}, {61, 41, 12, false}}},
		"fell silent for a moment each": {time.Millisecond, []look{{0, 10, 10, false}, {1, 14, 11, false}, {2, 18, 12, false}, {3, 22, 13, false}}},
	} {
		var p Pulse
		for _, l := range c.looks {
			if got := p.Dead(at(l.second), l.sent, l.received, c.rtt); got != l.dead {
				t.Errorf("%s, after %d s: dead %v, want %v", name, l.second, got, l.dead)
			}
		}
	}
}
