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

	"farlan/measure"
)

// Behind a modem of 100 Mbit/s with a deep queue, an agent that knows the rate
// keeps that queue empty: while an upload takes all there is, a ping takes little
// longer than before, ARP and DHCP pass at once, and the upload loses next to
// nothing. Without --uplink the same upload fills the modem.
func TestUplink(t *testing.T) {
	takeTurn(t)
	without := newUpload(t)
	if n, err := without.dropped(); err != nil || n != 0 {
		t.Errorf("without an uplink %d frames found it full, %v", n, err)
	}
	t.Logf("without --uplink: %v", without)
	const tries = 3 // other tests may keep the processors from this one
	for i := range tries {
		with := newUpload(t, "--uplink", "100Mbit")
		dropped, err := with.dropped()
		t.Logf("with --uplink: %v; %d frames dropped for it", with, dropped)
		if err != nil || dropped == 0 {
			t.Errorf("status tells of no frames that found the uplink full: %v", err)
		}
		err = errors.Join(with.wrong(), with.better(without))
		if err == nil {
			return
		}
		if i == tries-1 {
			t.Error(err)
		}
		t.Logf("again: %v", err)
	}
}

// mostRise is by how much an upload may raise the round trip of a ping.
const mostRise = 15 * time.Millisecond

// wrong says what is wrong with an upload by an agent that knows its uplink.
func (u *upload) wrong() error {
	var errs []error
	for _, per100 := range []int{50, 99} {
		if rise := u.rise(per100); rise > mostRise {
			errs = append(errs, fmt.Errorf("percentile %d of the pings rises by %v, want %v at most", per100, rise, mostRise))
		}
	}
	if u.early {
		errs = append(errs, errors.New("the upload ended too soon"))
	}
	if u.lost > 1 {
		errs = append(errs, fmt.Errorf("%d of %d pings lost", u.lost, u.lost+len(u.busy)))
	}
	if u.arpFailed != 0 || u.arps == 0 {
		errs = append(errs, fmt.Errorf("%d of %d ARP requests failed", u.arpFailed, u.arps))
	}
	if u.dhcpFailed != nil || u.dhcp == 0 || u.dhcp > 2*time.Second {
		errs = append(errs, fmt.Errorf("DHCP took %v", u.dhcp), u.dhcpFailed)
	}
	// A packet of 1500 bytes is 1514 on the modem's wire, and carries a frame of
	// 1427, of which 1361 are TCP's payload: IPv4, TCP, a time stamp.
	if want := 0.85 * 100 * 1361 / 1514; u.mbit < want {
		errs = append(errs, fmt.Errorf("the upload has %.1f Mbit/s, want %.1f", u.mbit, want))
	}
	return errors.Join(errs...)
}

// better says whether the pings suffered less than in another upload. If not,
// nothing is shown.
func (u *upload) better(than *upload) error {
	for _, per100 := range []int{50, 99} {
		if rise, other := u.rise(per100), than.rise(per100); other < max(2*rise, 2*mostRise) {
			return fmt.Errorf("percentile %d of the pings rises by %v, without --uplink by %v only", per100, rise, other)
		}
	}
	return nil
}

// An upload is what was seen at site a while it sent all that it could to b.
type upload struct {
	s          *sites
	idle, busy []time.Duration // pings' round trips before and meanwhile, sorted
	lost       int             // of the latter
	early      bool            // it ended while some were sent

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
	s.join(t, ",trust=dhcp", args...)
	s.serveDHCP(t)
	s.background(s.b, "iperf3 -s -p 5300")
	eventually(t, 5*time.Second, func() error { return s.try(s.a, "timeout 3 iperf3 -p 5300 -n 1K -c 10.78.0.2") })
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
	go func() {
		if len(args) > 0 {
			u.ask()
		}
		close(asked)
	}()
	u.busy, u.lost = s.pings(t, 150)
	<-asked
	u.early = len(uploaded) > 0
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
	args = "netns exec " + s.a + " timeout 12 iperf3 -J -p 5300 " + args
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

// tighten gives the router's cables an MTU below what farlan relies on. Packets
// that may be fragmented are; the others vanish without a word.
func (s *sites) tighten(mtu int) {
	s.t.Helper()
	s.drop("tight", fmt.Sprintf("ip length > %d ip frag-off & 0x4000 != 0", mtu))
	for _, device := range []string{"ua", "ub"} {
		s.in(s.r, fmt.Sprintf("ip link set dev %s mtu %d", device, mtu))
	}
}

// A path that doesn't even carry 1280 bytes carries frames all the same: IP cuts
// the datagrams.
func TestTinyPath(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.join(t, "")
	s.tighten(1000)
	took := eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q -s 1472 -M do 10.78.0.2") })
	t.Logf("full frames cross after %v", took)
	s.transfer(t, "10.78.0.2", 4<<20)
	if a, b := s.mtu(0), s.mtu(1); a != measure.BaseMTU || b != measure.BaseMTU {
		t.Errorf("MTUs %d and %d, want the least that is tried", a, b)
	}
}
