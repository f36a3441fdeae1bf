package discovery

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"farlan/overlay"
)

func mac(n int) overlay.MAC { return overlay.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)} }

func someTraffic() Traffic {
	return Traffic{
		Flows: []Flow{{mac(2), mac(1), BriefOf(agentID(2)), 8_000_000}, {mac(1), mac(2), BriefOf(agentID(2)), 90_000_000}},
		Sums:  []Sum{{BriefOf(agentID(2)), 98_000_000}, {BriefOf(agentID(3)), 50_000}},
	}
}

func TestTrafficArrives(t *testing.T) {
	b, err := someTraffic().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseTraffic(append(b, 1, 2, 3))
	if err != nil || len(got.Flows) != 2 || len(got.Sums) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if f := got.Flows[0]; f.From != mac(1) || f.To != mac(2) || f.Agent != BriefOf(agentID(2)) || f.Rate < 89_900_000 || f.Rate > 90_100_000 {
		t.Errorf("%+v", f)
	}
	// Longer rows of a later version are read as far as this one knows them.
	later := []byte{1, flowRowLen + 1, 1, sumRowLen + 2}
	later = append(append(later, b[4:4+flowRowLen]...), 7)
	later = append(append(later, b[4+2*flowRowLen:4+2*flowRowLen+sumRowLen]...), 7, 7)
	if l, err := ParseTraffic(later); err != nil || l.Flows[0] != got.Flows[0] || l.Sums[0] != got.Sums[0] {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := (Traffic{Flows: make([]Flow, 1), Sums: make([]Sum, 2)}).Append(nil); err != nil {
		t.Error("of two sums to one agent none is told: ", err)
	}
	many := Traffic{}
	for i := range MaxFlows + 1 {
		many.Sums = append(many.Sums, Sum{Agent: Brief(i)})
	}
	if _, err := many.Append(nil); err == nil {
		t.Error("too many were taken")
	}
}

func TestTrafficLiars(t *testing.T) {
	good, err := someTraffic().Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	change := func(offset int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[offset:], with)
		return b
	}
	itself, err := Traffic{Sums: []Sum{{BriefOf(agentID(1)), 1000}}}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"from a group":      change(4, 1),
		"to everybody":      change(10, 0xff),
		"a petabit":         change(24, 0xff, 0xff),
		"no rate":           change(24, 0, 0),
		"a petabit in all":  change(4+2*flowRowLen+8, 0xff, 0xff),
		"a flow twice":      change(4+flowRowLen, good[4:4+flowRowLen]...),
		"an agent twice":    change(4+2*flowRowLen+sumRowLen, good[4+2*flowRowLen:4+2*flowRowLen+sumRowLen]...),
		"more than is here": change(0, 9),
		"too many":          append(change(0, 255), make([]byte, 8000)...),
		"short rows":        change(1, 3),
		"short sums":        change(3, 3),
		"to itself":         itself,
		"nothing":           {},
	} {
		s := NewStore(agentID(0), testKey(7), 1, Limits{})
		s.Connected(at(0), agentID(1))
		err := s.Receive(at(1), agentID(1), message(sectionRecord, signed(1, KindTraffic, version(1), start+100, body).Bytes()))
		if err == nil || s.Counters().Malformed != 1 {
			t.Errorf("%s: %v, counted %d", name, err, s.Counters().Malformed)
		}
		if _, _, ok := s.Traffic(agentID(1)); ok {
			t.Errorf("%s: believed", name)
		}
	}
}

// Traffic is told when it begins, changes by a quarter, or ends, and within bounds.
func TestTrafficTelling(t *testing.T) {
	var k TrafficTelling
	now := at(0)
	var is Traffic
	count := 0
	after := func(d time.Duration) time.Duration {
		first := time.Duration(-1)
		for passed := time.Second; passed <= d; passed += time.Second {
			now = now.Add(time.Second)
			if k.Due(now, is, 10) {
				k.Tell(now, is, 10)
				if count++; first < 0 {
					first = passed
				}
			}
		}
		return first
	}
	if got := after(time.Hour); got >= 0 {
		t.Errorf("nothing is told after %v", got)
	}
	is = someTraffic()
	if got := after(time.Minute); got != time.Second {
		t.Errorf("its begin is told after %v", got)
	}
	is = someTraffic()
	is.Flows[1].Rate = 95_000_000
	if got := after(time.Minute); got >= 0 {
		t.Errorf("a little more is told after %v", got)
	}
	is = someTraffic()
	is.Flows[1].Rate = 195_000_000
	if got := after(time.Minute); got != time.Second {
		t.Errorf("twice as much is told after %v", got)
	}
	if got := after(20 * time.Minute); got < 4*time.Minute {
		t.Errorf("it is renewed after %v", got)
	}
	is = Traffic{}
	if got := after(time.Minute); got != time.Second {
		t.Errorf("its end is told after %v", got)
	}
	count = 0
	for i := range 3600 {
		is = Traffic{Flows: []Flow{{mac(1), mac(2), 7, int64(1+i%2) * 1_000_000}}}
		after(time.Second)
	}
	if count > 3600/40+trafficBurst+1 {
		t.Errorf("restless traffic is told %d times an hour by one of ten agents", count)
	}
}

func FuzzParseTraffic(f *testing.F) {
	b, err := someTraffic().Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		told, err := ParseTraffic(b)
		if err != nil {
			return
		}
		c, err := told.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseTraffic(c); err != nil || !reflect.DeepEqual(again, told) {
			t.Fatalf("%+v comes back as %+v, %v", told, again, err)
		}
	})
}
