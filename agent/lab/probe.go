package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"farlan/agent/lab/guest"
)

// run runs a command on a host to its end and returns what it prints.
func (h Host) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	path, err := guest.FindProgram(program)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = cleanEnviron()
	var notes strings.Builder
	cmd.Stderr = &notes
	var out []byte
	err = onHost(h.Namespace, func() (err error) { out, err = cmd.Output(); return err })
	if err != nil {
		err = fmt.Errorf("%s: %s: %w %s", h.Name, program, err, strings.TrimSpace(notes.String()))
	}
	return out, err
}

// Pings are the round trips of a ping.
type Pings struct {
	Sent, Received int
	Min, Avg, Max  time.Duration // of those received
}

// String returns the pings as people read them.
func (p Pings) String() string {
	if p.Received == 0 {
		return fmt.Sprintf("0 of %d came back", p.Sent)
	}
	return fmt.Sprintf("%d of %d came back, after %.1f to %.1f ms, on average %.1f",
		p.Received, p.Sent, inMS(p.Min), inMS(p.Max), inMS(p.Avg))
}

var (
	pingCounts = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)
	pingTimes  = regexp.MustCompile(`= ([\d.]+)/([\d.]+)/([\d.]+)/`)
)

// ping sends count packets to an address and waits for each up to two seconds.
// Packets that don't come back are no error.
func (h Host) ping(ctx context.Context, to netip.Addr, count int, interval time.Duration) (Pings, error) {
	out, err := h.run(ctx, "ping", "-q", "-n", "-W", "2", "-c", strconv.Itoa(count),
		"-i", strconv.FormatFloat(interval.Seconds(), 'f', -1, 64), to.String())
	m := pingCounts.FindSubmatch(out)
	if m == nil {
		return Pings{}, fmt.Errorf("%s pings %v: %w", h.Name, to, err)
	}
	var p Pings
	p.Sent, _ = strconv.Atoi(string(m[1])) // the expression lets only numbers through
	p.Received, _ = strconv.Atoi(string(m[2]))
	if m = pingTimes.FindSubmatch(out); m != nil {
		for i, to := range []*time.Duration{&p.Min, &p.Avg, &p.Max} {
			*to, _ = time.ParseDuration(string(m[i+1]) + "ms")
		}
	}
	return p, nil
}

// reach pings an address ten times a second until it answers.
func (h Host) reach(ctx context.Context, to netip.Addr) error {
	return poll(ctx, 20*time.Millisecond, func() error {
		// With -w, -c counts answers; an unreachable host ends it too.
		_, err := h.run(ctx, "ping", "-q", "-n", "-w", "30", "-c", "1", "-i", "0.1", to.String())
		return err
	})
}

// A Transfer is a file that was fetched.
type Transfer struct {
	Bytes int64
	Took  time.Duration
	Right bool // it is what host-a serves
}

// String returns the transfer as people read it.
func (t Transfer) String() string {
	what := "is what was sent"
	if !t.Right {
		what = "is NOT what was sent"
	}
	return fmt.Sprintf("%.1f MB in %.1f s, %.1f Mbit/s; it %s",
		float64(t.Bytes)/1e6, t.Took.Seconds(), float64(t.Bytes)*8/t.Took.Seconds()/1e6, what)
}

// fetch fetches a file of n bytes from host-a over TCP.
func (h Host) fetch(ctx context.Context, n int64) (Transfer, error) {
	start := time.Now()
	b, err := h.run(ctx, "busybox", "wget", "-q", "-O", "-", fileURL(n))
	if err != nil {
		return Transfer{}, err
	}
	sum := sha256.Sum256(b)
	return Transfer{
		Bytes: int64(len(b)), Took: time.Since(start),
		Right: hex.EncodeToString(sum[:]) == fileSum(n),
	}, nil
}
