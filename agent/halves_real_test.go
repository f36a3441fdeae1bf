package agent

import (
	"errors"
	"testing"
	"time"
)

// When a LAN is cut in two, each half has a proxy that forwards, and far sites reach a machine
// that said nothing since by the one of its half. When it is whole again one forwards.
func TestHalvesOfALAN(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	key := newKeyFile(t)
	far := s.start("z", s.z, key, 3, "--tap", "t")
	all := []*process{s.start("p1", s.p[0], key, 1, "--lan", "e"), s.start("p2", s.p[1], key, 2, "--lan", "e")}
	eventually(t, 15*time.Second, func() error {
		return errors.Join(far.sees(3), all[0].sees(3), all[1].sees(3), roles([]string{"forwarding", "standby"}, all...))
	})
	s.host("ip -n " + s.h + " addr add 10.80.0.1/24 dev e")
	s.host("ip -n " + s.z + " addr add 10.80.0.9/24 dev t")
	s.in(s.z, "ping -c3 -i0.2 -W2 10.80.0.1")
	time.Sleep(2 * time.Second)
	leg := "l2" // of who forwards, see newStreet
	if all[1].role() == "forwarding" {
		leg = "l3"
	}
	s.host("ip -n " + s.lan + " link set " + leg + " nomaster") // the cable stays in
	began := time.Now()
	took := eventually(t, 10*time.Second, func() error { return s.try(s.z, "ping -c1 -W1 -q 10.80.0.1") })
	t.Logf("the LAN is cut: a silent machine is reached again after %v", took)
	if time.Since(began) > 5*time.Second {
		t.Errorf("a silent machine is reached after %v", time.Since(began))
	}
	if err := roles([]string{"forwarding", "forwarding"}, all...); err != nil {
		t.Error(err)
	}
	s.host("ip -n " + s.lan + " link set " + leg + " master br0")
	took = eventually(t, 5*time.Second, func() error { return roles([]string{"forwarding", "standby"}, all...) })
	t.Logf("it is whole again: one forwards after %v", took)
	eventually(t, 5*time.Second, func() error { return s.try(s.z, "ping -c1 -W1 -q 10.80.0.1") })
	for _, a := range all {
		if h, err := a.health("segment e"); err != nil || !h.OK {
			t.Errorf("%s says %+v, %v", a.name, h, err)
		}
	}
}
