package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// how returns how a site reaches another, as "path transport via".
func (l *Lab) how(ctx context.Context, from, to string) (string, error) {
	peers, err := l.peers(ctx, from)
	if err != nil {
		return "", err
	}
	for _, p := range peers {
		if p.Name == to && p.State == "up" {
			return strings.TrimSpace(p.Path + " " + p.Transport + " " + strings.Join(p.Via, ",")), nil
		}
	}
	return "not", nil
}

// becomes waits until a site reaches another in a way, and returns how long it took.
func (l *Lab) becomes(t *testing.T, from, to, want string, within time.Duration) time.Duration {
	t.Helper()
	began, is := time.Now(), ""
	eventually(t, within, func() (err error) {
		if is, err = l.how(t.Context(), from, to); err == nil && is != want && !strings.HasPrefix(is, want+" ") {
			err = fmt.Errorf("%s reaches %s: %s, not %s", from, to, is, want)
		}
		return err
	})
	return time.Since(began).Round(10 * time.Millisecond)
}

// TestTCPOnly: agents where no UDP passes reach everybody within five seconds, each
// other too, through TCP to a member; as soon as UDP passes they use that, and when
// it is cut again little is lost.
func TestTCPOnly(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Sites = 4
	o.NATs = nats(t, "home=none", "site1=tcp-only", "site2=tcp-only", "site3=port-restricted")
	began := time.Now()
	l := up(t, o)
	built := time.Since(began)
	for _, c := range []struct{ from, to, want string }{
		{"site1", "home", "direct stream"},
		{"site2", "home", "direct stream"},
		{"home", "site1", "direct stream"},
		{"site1", "site3", "relayed stream home"},
		{"site3", "site1", "relayed udp home"},
		{"site1", "site2", "relayed stream home"},
		{"site2", "site1", "relayed stream home"},
	} {
		l.becomes(t, c.from, c.to, c.want, 20*time.Second)
	}
	t.Logf("the lab is up after %v, all reach each other %v later", built.Round(10*time.Millisecond), (time.Since(began) - built).Round(10*time.Millisecond))

	vm, far := l.mustHost(t, "site1-vm1"), l.mustHost(t, "site2-vm1")
	lease, err := l.leaseOf(far)
	if err != nil {
		t.Fatal(err)
	}
	p, err := vm.ping(within(t, 30*time.Second), lease.Address, 50, 20*ms)
	t.Logf("between sites without UDP: %v", p)
	if err != nil || p.Received < 45 {
		t.Errorf("between sites without UDP: %v, %v", p, err)
	}
	f, err := vm.fetch(within(t, 60*time.Second), 4<<20)
	t.Logf("a file through TCP: %v", f)
	if err != nil || !f.Right {
		t.Errorf("a file through TCP: %v, %v", f, err)
	}

	output(t, o, "wan", "--pass-udp", "site1")
	took := max(l.becomes(t, "site1", "home", "direct udp", 15*time.Second), l.becomes(t, "home", "site1", "direct udp", 15*time.Second))
	t.Logf("UDP passes: direct after %v", took)
	l.becomes(t, "site1", "site3", "direct udp", 15*time.Second)
	eventually(t, 10*time.Second, l.process(agentName("site1")).logged("the way through TCP has ended"))

	// Pings every 20 ms tell how long nothing passes.
	lost := make(chan error, 1)
	var result Pings
	go func() {
		var err error
		result, err = vm.ping(within(t, 30*time.Second), hostAIP, 400, 20*ms)
		lost <- err
	}()
	time.Sleep(time.Second)
	output(t, o, "wan", "--block-udp", "site1")
	if err := <-lost; err != nil {
		t.Fatal(err)
	}
	out := time.Duration(result.Sent-result.Received) * 20 * ms
	t.Logf("UDP is cut: %v; nothing passed for about %v", result, out)
	if out > 2*time.Second { // a second, and what a busy machine adds
		t.Errorf("nothing passed for about %v", out)
	}
	l.becomes(t, "site1", "home", "direct stream", 5*time.Second)
	for _, wrong := range []string{"nowhere", "home"} {
		if err := command(t.Context(), o, "wan", "--block-udp", wrong).Run(); err == nil {
			t.Error(errors.New("lab wan --block-udp " + wrong + " succeeds"))
		}
	}
}
