package overlay

import (
	"testing"
	"time"
)

// What came by the overlay and comes from a LAN within a second has come back; nothing else has.
func TestReturns(t *testing.T) {
	var r Returns
	now := Instant(time.Hour)
	came, other, long := eth(Broadcast, mac(1)), eth(Broadcast, mac(2)), append(eth(Broadcast, mac(3)), make([]byte, 2000)...)
	for _, f := range [][]byte{came, long, eth(mac(9), mac(1)), nil} {
		r.Came(now, f)
	}
	if !r.Back(now, came) || !r.Back(now.Add(900*time.Millisecond), long) {
		t.Error("one that came back isn't noticed")
	}
	if r.Back(now, other) || r.Back(now.Add(time.Second), came) || r.Back(now, eth(mac(9), mac(1))) || r.Back(now, nil) {
		t.Error("one that didn't is")
	}
	if n := testing.AllocsPerRun(100, func() { r.Came(now, long); r.Back(now, long) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
