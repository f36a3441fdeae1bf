package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// A finding is one of farlan doctor's.
type finding struct{ Check, Level, Detail string }

// doctor returns what a site's agent finds.
func (l *Lab) doctor(t *testing.T, site string) (map[string]finding, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), l.Options.Binary, "doctor", "--json")
	cmd.Env = append(cleanEnviron(), "FARLAN_SOCKET="+l.socket(site))
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		err = nil // it found something to mend
	}
	var v struct{ Findings []finding }
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	all := make(map[string]finding)
	for _, f := range v.Findings {
		all[f.Check] = f
	}
	return all, err
}

// The doctor says what stands in front of a host, and whether others can begin there,
// for every kind of NAT.
func TestDoctorTellsTheNAT(t *testing.T) {
	t.Parallel()
	const (
		none    = "takes nothing"
		unknown = "unknown"
		udp     = "TCP doesn't"
	)
	kinds := []struct{ nat, kind, level, reach, reachLevel string }{
		{"none", "none: members see this host at an address of its own", "ok", "TCP from", "ok"},
		{"firewall", "a firewall lets nothing in", "ok", none, "warn"},
		{"full-cone", "a full cone, or a restricted one", "ok", udp, "warn"},
		{"restricted", "a full cone, or a restricted one", "ok", udp, "warn"},
		{"port-restricted", "a port-restricted cone", "ok", none, "warn"},
		{"symmetric", "symmetric", "warn", none, "warn"},
		{"tcp-only", "no UDP passes", "warn", unknown, "ok"},
	}
	o := testOptions(t)
	texts := []string{"home=none", "site1=none"}
	for i, k := range kinds {
		texts = append(texts, siteName(i+2)+"="+k.nat)
	}
	o.Sites, o.NATs = len(kinds)+2, nats(t, texts...)
	l := up(t, o)
	var tasks sync.WaitGroup
	for i, k := range kinds {
		tasks.Go(func() {
			began, last := time.Now(), errors.New("not asked")
			for time.Since(began) < 40*time.Second && last != nil {
				found, err := l.doctor(t, siteName(i+2))
				is, reach := found["NAT"], found["reachable"]
				last = err
				if is.Level != k.level || !strings.Contains(is.Detail, k.kind) || reach.Level != k.reachLevel || !strings.Contains(reach.Detail, k.reach) {
					last = errors.Join(err, fmt.Errorf("%+v, %+v", is, reach))
				} else {
					t.Logf("%s after %v: %s; %s", k.nat, time.Since(began).Round(time.Second), is.Detail, reach.Detail)
				}
			}
			if last != nil {
				t.Errorf("%s: %v", k.nat, last)
			}
		})
	}
	tasks.Wait()
}
