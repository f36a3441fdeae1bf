package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A metric is something that is measured in every cell.
type metric string

// The metrics, with their unit last.
const (
	one        metric = "tcp_one_mbit"
	four       metric = "tcp_four_mbit"
	reverse    metric = "tcp_reverse_mbit"
	rtt50      metric = "rtt_p50_us"
	rtt99      metric = "rtt_p99_us"
	small      metric = "udp64_kpps"           // the highest rate without loss
	daemonsCPU metric = "daemons_cpu_s_per_gb" // both daemons, user and system
	machineCPU metric = "machine_cpu_s_per_gb" // everything, the load and the kernel included
	resident   metric = "resident_mb"          // the larger daemon, right after the load
	peak       metric = "peak_mb"              // the larger daemon, at its largest
	idle       metric = "idle_busy_percent"    // how busy the machine was with the tunnel idle
)

// A sample is what one cell measured. Tunnels without daemons have no figures
// of them.
type sample map[metric]float64

const (
	pings       = 1000
	warmPings   = 20 // one second for the tunnel to settle: for peers to meet, and sizes to be found
	reachWithin = 30 * time.Second
)

// measure loads the tunnel to addr: idle first, then TCP, then small packets.
func (h *hosts) measure(addr string, seconds int) (sample, error) {
	if err := h.reach(addr); err != nil {
		return nil, err
	}
	v := sample{}
	before, begin := machineTicks(), time.Now()
	if _, err := h.in(0, "ping", "-q", "-i", "0.05", "-c", strconv.Itoa(warmPings), addr); err != nil {
		return nil, err
	}
	v[idle] = 100 * (machineTicks() - before) / ticksPerSecond / time.Since(begin).Seconds() / float64(cores())
	rtts, err := h.ping(addr)
	if err != nil {
		return nil, err
	}
	v[rtt50], v[rtt99] = quantile(rtts, 0.50), quantile(rtts, 0.99)
	if err := h.tcp(v, addr, seconds); err != nil {
		return nil, err
	}
	if v[small], err = h.small(addr); err != nil {
		return nil, err
	}
	for _, d := range h.daemons {
		now, most := memory(d)
		if now == 0 {
			return nil, fmt.Errorf("%s has ended", strings.Join(d.Args, " "))
		}
		v[resident], v[peak] = max(v[resident], now), max(v[peak], most)
	}
	return v, nil
}

// reach waits until side 1 answers.
func (h *hosts) reach(addr string) error {
	for deadline := time.Now().Add(reachWithin); ; {
		if _, err := h.in(0, "ping", "-q", "-c", "1", "-W", "1", addr); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s can't be reached within %v", addr, reachWithin)
		}
	}
}

// ping returns round trips in microseconds: single packets with the rest idle.
func (h *hosts) ping(addr string) ([]float64, error) {
	out, err := h.in(0, "ping", "-i", "0.002", "-c", strconv.Itoa(pings), addr)
	if err != nil {
		return nil, err
	}
	rtts := roundTrips(out)
	if len(rtts) < pings*9/10 {
		return nil, fmt.Errorf("only %d of %d pings were answered", len(rtts), pings)
	}
	return rtts, nil
}

// roundTrips are the times in ping's output, in microseconds.
func roundTrips(out string) []float64 {
	var rtts []float64
	for line := range strings.Lines(out) {
		if _, after, ok := strings.Cut(line, "time="); ok {
			word, _, _ := strings.Cut(after, " ")
			if ms, err := strconv.ParseFloat(word, 64); err == nil {
				rtts = append(rtts, 1000*ms)
			}
		}
	}
	return rtts
}

// tcp measures one stream, with the processor time that it takes, four streams,
// and one in the other direction.
func (h *hosts) tcp(v sample, addr string, seconds int) error {
	if _, err := h.spawn(1, "iperf3", "-s"); err != nil {
		return err
	}
	if err := h.listening(1, ":5201"); err != nil {
		return err
	}
	daemons, machine := h.daemonTicks(), machineTicks()
	r, err := h.iperf(addr, seconds)
	if err != nil {
		return err
	}
	gigabytes := r.bytes() / 1e9
	if gigabytes == 0 {
		return errors.New("iperf3 moved nothing")
	}
	v[machineCPU] = (machineTicks() - machine) / ticksPerSecond / gigabytes
	if len(h.daemons) > 0 {
		v[daemonsCPU] = (h.daemonTicks() - daemons) / ticksPerSecond / gigabytes
	}
	v[one] = r.mbit()
	if r, err = h.iperf(addr, seconds, "-P", "4"); err != nil {
		return err
	}
	v[four] = r.mbit()
	if r, err = h.iperf(addr, seconds, "-R"); err != nil {
		return err
	}
	v[reverse] = r.mbit()
	return nil
}

// listening waits for a TCP listener.
func (h *hosts) listening(side int, port string) error {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if out, err := h.in(side, "ss", "-Hltn"); err == nil && strings.Contains(out, port) {
			return nil
		}
	}
	return fmt.Errorf("nobody listens on %s", port)
}

// A report is what iperf3 says.
type report struct {
	Error string
	Start struct {
		MSS float64 `json:"tcp_mss_default"`
	}
	Intervals []struct {
		Sum struct{ Bytes float64 }
	}
	End struct {
		Streams []struct {
			Sender struct {
				RTT float64 `json:"mean_rtt"` // µs
			}
		}
		Sent struct {
			Retransmits float64
		} `json:"sum_sent"`
		Received struct {
			Bits float64 `json:"bits_per_second"`
		} `json:"sum_received"`
	}
}

// mbit is what arrived in the seconds that count.
func (r report) mbit() float64 { return r.End.Received.Bits / 1e6 }

// bytes is all that was moved, the first second included, which iperf3 leaves
// out of its sums and which took processor time all the same.
func (r report) bytes() (n float64) {
	for _, i := range r.Intervals {
		n += i.Sum.Bytes
	}
	return n
}

func (h *hosts) iperf(addr string, seconds int, more ...string) (report, error) {
	args := append([]string{"iperf3", "-J", "-c", addr, "-t", strconv.Itoa(seconds), "-O", "1", "--connect-timeout", "5000"}, more...)
	out, err := h.inFor(time.Duration(seconds)*time.Second+commandTimeout, 0, args...)
	var r report
	if jsonErr := json.Unmarshal([]byte(out), &r); err == nil && jsonErr != nil {
		return r, fmt.Errorf("iperf3: %w", jsonErr)
	}
	if r.Error != "" {
		return r, fmt.Errorf("iperf3: %s", r.Error)
	}
	return r, err
}

// ticksPerSecond is USER_HZ, in which Linux tells all of its processor times.
const ticksPerSecond = 100

func (h *hosts) daemonTicks() (ticks float64) {
	for _, d := range h.daemons {
		ticks += processTicks(readProc(d.Process.Pid, "stat"))
	}
	return ticks
}

// processTicks is utime+stime of all threads, those that ended included, out of
// /proc/PID/stat. The name before them may have spaces and parentheses.
func processTicks(stat string) float64 {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	return float(fields[11]) + float(fields[12])
}

// machineTicks is the time that all cores together were busy.
func machineTicks() float64 {
	text, _ := os.ReadFile("/proc/stat")
	return busyTicks(string(text))
}

// busyTicks is user, nice, system, irq and softirq of /proc/stat: not idle, not
// waiting for a disk, not stolen by a hypervisor.
func busyTicks(stat string) float64 {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 8 {
		return 0
	}
	return float(f[1]) + float(f[2]) + float(f[3]) + float(f[6]) + float(f[7])
}

// memory is a process's resident memory now and at most, in MB.
func memory(c *exec.Cmd) (now, most float64) {
	for line := range strings.Lines(readProc(c.Process.Pid, "status")) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "VmRSS:" {
			now = float(f[1]) * 1024 / 1e6
		}
		if len(f) == 3 && f[0] == "VmHWM:" {
			most = float(f[1]) * 1024 / 1e6
		}
	}
	return now, most
}

func readProc(pid int, name string) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	return string(text)
}

func float(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

// quantile is the q-quantile of values, of which there is at least one.
func quantile(values []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
