package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Behind a modem of 100 Mbit/s with a deep queue, an agent that knows the rate
// keeps that queue empty: while an upload takes all there is, a ping takes little
// longer than before, ARP and DHCP pass at once, and the upload loses next to
// nothing. Without --uplink the same upload fills the modem.
func TestUplink(t *testing.T) {
	with := newUpload(t, "--uplink", "100Mbit")
	dropped, err := with.dropped()
	if err != nil || dropped == 0 {
		t.Errorf("status tells of no frames that found the uplink full: %v", err)
	}
	without := newUpload(t)
	if n, err := without.dropped(); err != nil || n != 0 {
		t.Errorf("without an uplink %d frames found it full, %v", n, err)
	}
	t.Logf("with --uplink: %v, %d frames dropped for it; without: %v", with, dropped, without)

	const most = 15 * time.Millisecond
	for _, q := range []struct {
		name      string
		per100    int
		leastRise time.Duration // without --uplink
	}{{"median", 50, 2 * most}, {"99th percentile", 99, 2 * most}} {
		rise, bad := with.rise(q.per100), without.rise(q.per100)
		if rise > most {
			t.Errorf("the %s of a ping rises by %v under the upload, want %v at most", q.name, rise, most)
		}
		if bad < max(2*rise, q.leastRise) {
			t.Errorf("without --uplink the %s rises by %v only, with it by %v: this shows nothing", q.name, bad, rise)
		}
	}
	if with.lost > 1 {
		t.Errorf("%d pings lost", with.lost)
	}
	if with.arpFailed != 0 {
		t.Errorf("%d of %d ARP requests failed", with.arpFailed, with.arps)
	}
	if with.dhcpFailed != nil || with.dhcp > 2*time.Second {
		t.Errorf("DHCP took %v: %v", with.dhcp, with.dhcpFailed)
	}
	// A packet of 1500 bytes is 1514 on the modem's wire, and carries a frame of
	// 1427, of which 1361 are TCP's payload: IPv4, TCP, a time stamp.
	if want := 0.85 * 100 * 1361 / 1514; with.mbit < want {
		t.Errorf("the upload has %.1f Mbit/s, want %.1f", with.mbit, want)
	}
}

// An upload is what was seen at site a while it sent all that it could to b.
type upload struct {
	s          *sites
	idle, busy []time.Duration // pings' round trips before and meanwhile, sorted
	lost       int             // of the latter

	arps, arpFailed int
	dhcp            time.Duration // the longest of some
	dhcpFailed      error
	mbit            float64
}

func newUpload(t *testing.T, args ...string) *upload {
	t.Helper()
	s := newSites(t)
	u := &upload{s: s}
	for ns, device := range map[string]string{s.a: "u", s.r: "ua"} {
		s.in(ns, "ethtool -K "+device+" tso off gso off tx-udp-segmentation off")
	}
	s.in(s.r, "ethtool -K ub tso off gso off tx-udp-segmentation off")
	s.in(s.r, "tc qdisc add dev ub root tbf rate 100mbit burst 32kb latency 300ms")
	s.join(t, "", args...)
	s.serveDHCP(t)
	s.background(s.b, "iperf3 -s -p 5300")
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "iperf3 -p 5300 -n 1K -c 10.78.0.2") })
	u.idle, _ = s.pings(t, 50)

	uploaded := make(chan error, 1)
	go func() {
		// CUBIC fills what queue it finds.
		var err error
		u.mbit, _, err = s.iperf("-t 6 -P 4 -C cubic -c 10.78.0.2")
		uploaded <- err
	}()
	_, _ = s.pings(t, 75) // while the queue fills
	asked := make(chan struct{})
	go func() { u.ask(); close(asked) }()
	u.busy, u.lost = s.pings(t, 150)
	<-asked
	select {
	case <-uploaded:
		t.Fatal("the upload ended too soon")
	default:
	}
	if err := <-uploaded; err != nil {
		t.Fatal(err)
	}
	return u
}

// ask asks what hosts ask before they can talk, for about 3 s if the answers come
// at once, and for 4 s at most.
func (u *upload) ask() {
	s := u.s
	for start := time.Now(); u.arps < 15 && time.Since(start) < 3*time.Second; {
		u.arps++
		if err := s.try(s.a, "busybox arping -q -f -c 1 -w 1 -I t 10.78.0.2"); err != nil {
			u.arpFailed++
		}
		if u.arps%5 == 0 {
			took, err := s.lease()
			u.dhcp, u.dhcpFailed = max(u.dhcp, took), errors.Join(u.dhcpFailed, err)
		}
	}
}

// rise returns by how much the upload raised a percentile of the pings.
func (u *upload) rise(per100 int) time.Duration {
	return percentile(u.busy, per100) - percentile(u.idle, per100)
}

// dropped returns how many frames the agent at a dropped for its uplink.
func (u *upload) dropped() (n uint64, err error) {
	v, err := u.s.agents[0].status()
	for _, d := range v.Drops {
		if d.Reason == "uplink full" {
			n += d.Count
		}
	}
	return n, err
}

func (u *upload) String() string {
	return fmt.Sprintf("%.1f Mbit/s, pings p50 %v → %v, p99 %v → %v, %d lost, %d of %d ARP failed, DHCP %v",
		u.mbit, percentile(u.idle, 50), percentile(u.busy, 50), percentile(u.idle, 99), percentile(u.busy, 99),
		u.lost, u.arpFailed, u.arps, u.dhcp.Round(time.Millisecond))
}

// percentile returns one of sorted values.
func percentile(sorted []time.Duration, per100 int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*per100/100]
}

// pings sends n pings from a to b in n/50 s, and returns their round trips,
// sorted, and how many were lost.
func (s *sites) pings(t *testing.T, n int) (rtts []time.Duration, lost int) {
	t.Helper()
	out, _ := exec.Command("ip", "netns", "exec", s.a, "ping", "-n", "-i", "0.02", "-W", "1", "-c", strconv.Itoa(n), "10.78.0.2").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		_, after, found := strings.Cut(line, " time=")
		if rtt, err := time.ParseDuration(strings.ReplaceAll(strings.TrimSpace(after), " ", "")); found && err == nil {
			rtts = append(rtts, rtt)
		}
	}
	if len(rtts) == 0 {
		t.Fatalf("no ping is answered:\n%s", out)
	}
	slices.Sort(rtts)
	return rtts, n - len(rtts)
}

// iperf runs an iperf3 client at a, for the server on port 5300.
func (s *sites) iperf(args string) (mbit float64, retransmits int, err error) {
	args = "netns exec " + s.a + " iperf3 -J -p 5300 " + args
	out, err := exec.Command("ip", strings.Fields(args)...).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", args, err, out)
	}
	var v struct {
		End struct {
			Sent struct {
				Retransmits int `json:"retransmits"`
			} `json:"sum_sent"`
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	err = json.Unmarshal(out, &v)
	return v.End.Received.BitsPerSecond / 1e6, v.End.Sent.Retransmits, err
}

// serveDHCP runs a DHCP server on b's TAP, until it answers.
func (s *sites) serveDHCP(t *testing.T) {
	t.Helper()
	s.background(s.b, "dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --log-facility="+filepath.Join(t.TempDir(), "log")+
		" --port=0 --interface=t --bind-interfaces --no-ping --dhcp-authoritative --dhcp-range=10.78.0.100,10.78.0.150,255.255.255.0,1h"+
		" --dhcp-leasefile="+filepath.Join(t.TempDir(), "leases")+" --pid-file=")
	eventually(t, 8*time.Second, func() error { _, err := s.lease(); return err })
}

// lease asks for an address at a's TAP, which doesn't take it.
func (s *sites) lease() (took time.Duration, err error) {
	start := time.Now()
	err = s.try(s.a, "busybox udhcpc -f -n -q -i t -T 1 -t 3 -A 1 -p "+os.DevNull+" -s /bin/true")
	return time.Since(start), err
}
