package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"farlan/agent/lab/guest"
)

//go:embed guest-start.sh
var guestStart []byte

// guestFile is how long the file is that guests fetch.
const guestFile = 1 << 20

// startGuest boots a QEMU guest on a far site. Its serial console is its log.
func (l *Lab) startGuest(ctx context.Context, h Host) (*Process, error) {
	cache, err := guest.CacheDir()
	if err != nil {
		return nil, err
	}
	k, err := guest.FetchKernel(ctx, cache)
	if err != nil {
		return nil, err
	}
	initrd := l.path("initrd.gz")
	if _, err = os.Stat(initrd); errors.Is(err, os.ErrNotExist) {
		if err = guest.BuildInitrd(ctx, k, guestStart, initrd); err != nil {
			return nil, err
		}
	}
	site, err := l.host(h.Site)
	if err != nil {
		return nil, err
	}
	args, err := guest.Machine{
		Kernel: k, Initrd: initrd,
		Append:  fmt.Sprintf("farlan.host=%s farlan.ping=%v farlan.url=%s", h.Name, hostAIP, fileURL(guestFile)),
		Devices: guest.TAP(portName(h), h.MAC),
	}.Args()
	if err != nil {
		return nil, err
	}
	return l.run(site, Process{Name: "guest-" + h.Name, Args: args})
}

// guestSaid returns what a guest said on its console after a word, for example
// "lease", and whether it has.
func (l *Lab) guestSaid(h Host, word string) (string, bool) {
	b, err := os.ReadFile(l.path("guest-" + h.Name + ".log"))
	if err != nil {
		return "", false
	}
	_, after, ok := strings.Cut(string(b), "farlan-guest: "+word)
	line, _, ended := strings.Cut(after, "\n")
	return strings.TrimSpace(line), ok && ended
}

// guestLease returns the lease that a guest has.
func (l *Lab) guestLease(h Host) (Lease, error) {
	said, ok := l.guestSaid(h, "lease")
	if !ok {
		return Lease{}, fmt.Errorf("%s has no lease yet", h.Name)
	}
	address, server, _ := strings.Cut(said, " from ")
	a, err := netip.ParseAddr(address)
	if err != nil {
		return Lease{}, fmt.Errorf("lease of %s: %w", h.Name, err)
	}
	s, err := netip.ParseAddr(server)
	if err != nil {
		return Lease{}, fmt.Errorf("lease of %s: %w", h.Name, err)
	}
	return Lease{Address: a, Server: s}, nil
}

// guestFetched returns what a guest says of the file that it fetched.
func (l *Lab) guestFetched(h Host) (Transfer, error) {
	said, ok := l.guestSaid(h, "fetched")
	if !ok {
		return Transfer{}, fmt.Errorf("%s has fetched no file", h.Name)
	}
	var t Transfer
	var seconds float64
	var sum string
	if _, err := fmt.Sscan(said, &t.Bytes, &seconds, &sum); err != nil {
		return Transfer{}, fmt.Errorf("%s fetched %q: %w", h.Name, said, err)
	}
	t.Took = time.Duration(seconds * float64(time.Second))
	t.Right = t.Bytes == guestFile && sum == fileSum(guestFile)
	return t, nil
}

// awaitGuest waits until a guest is done with what it does by itself.
func (l *Lab) awaitGuest(ctx context.Context, h Host) error {
	return poll(ctx, 50*time.Millisecond, func() error {
		if _, done := l.guestSaid(h, "done"); !done {
			return fmt.Errorf("%s is not done", h.Name)
		}
		return nil
	})
}
