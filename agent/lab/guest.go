package lab

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed guest-init.sh
var guestInit []byte

// guestModules are what a guest needs beyond its kernel; what is built into the
// kernel is no module and is not missed.
var guestModules = []string{"virtio_pci", "virtio_net", "af_packet"}

// guestMemory is enough for the kernel, busybox and the file it fetches, in MB.
const guestMemory = "192"

// guestFile is how long the file is that guests fetch.
const guestFile = 1 << 20

// buildInitrd writes the guests' RAM disk: busybox, the modules with what they
// depend on, and guest-init.sh.
func buildInitrd(ctx context.Context, k kernel, to string) error {
	program, err := findProgram("busybox")
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	deps, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	a := newArchive(&out)
	for _, dir := range []string{"bin", "dev", "modules"} {
		a.dir(dir)
	}
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	a.file("bin/busybox", busybox)
	a.file("init", guestInit)
	var order strings.Builder
	for _, name := range moduleOrder(string(deps), guestModules) {
		content, err := readModule(ctx, filepath.Join(k.modules, name))
		if err != nil {
			return fmt.Errorf("guest module %s: %w", name, err)
		}
		base := strings.TrimSuffix(path.Base(name), ".xz")
		a.file("modules/"+base, content)
		fmt.Fprintln(&order, base)
	}
	a.file("modules/order", []byte(order.String()))
	if err := a.Close(); err != nil {
		return fmt.Errorf("guest initrd: %w", err)
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

// moduleOrder returns the files of the modules and of what they depend on, in
// the order in which to load them. deps is modules.dep: lines of a file, a
// colon, and all files that it needs, those needed first last.
func moduleOrder(deps string, modules []string) []string {
	needs := make(map[string][]string) // by module name, itself first
	lines := bufio.NewScanner(strings.NewReader(deps))
	for lines.Scan() {
		file, rest, _ := strings.Cut(lines.Text(), ":")
		name, _, _ := strings.Cut(path.Base(file), ".")
		needs[strings.ReplaceAll(name, "-", "_")] = append([]string{file}, strings.Fields(rest)...)
	}
	var order []string
	seen := make(map[string]bool)
	for _, m := range modules {
		for _, file := range slices.Backward(needs[m]) {
			if !seen[file] {
				seen[file] = true
				order = append(order, file)
			}
		}
	}
	return order
}

// readModule returns a module's content, unpacked.
func readModule(ctx context.Context, file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".xz") {
		return os.ReadFile(file)
	}
	program, err := findProgram("xz")
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, program, "-dc", file).Output()
}

// startGuest boots a QEMU guest on a far site. Its serial console is its log.
func (l *Lab) startGuest(ctx context.Context, h Host) (*Process, error) {
	qemu, err := findProgram("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	k, err := guestKernel(ctx, cache)
	if err != nil {
		return nil, err
	}
	initrd := l.path("initrd.gz")
	if _, err = os.Stat(initrd); errors.Is(err, os.ErrNotExist) {
		if err = buildInitrd(ctx, k, initrd); err != nil {
			return nil, err
		}
	}
	site, err := l.host(h.Site)
	if err != nil {
		return nil, err
	}
	return l.run(site, Process{Name: "guest-" + h.Name, Args: []string{
		qemu, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", guestMemory,
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", k.image, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet panic=-1 farlan.host=%s farlan.ping=%v farlan.url=%s",
			h.Name, hostAIP, fileURL(guestFile)),
		"-netdev", fmt.Sprintf("tap,id=lan,ifname=%s,script=no,downscript=no", portName(h)),
		"-device", "virtio-net-pci,netdev=lan,romfile=,mac=" + h.MAC,
	}})
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
