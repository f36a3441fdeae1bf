package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hosts are two network namespaces with a veth pair between them, of MTU 1500,
// and what runs in them. Side 0 sends, side 1 receives.
type hosts struct {
	dir     string // for keys, configurations and logs
	farlan  string // the program
	ns      [2]string
	before  []string // the command by which farlan is started, if any
	spawned []*exec.Cmd
	daemons []*exec.Cmd // of them, the tunnel's two ends: their processor time and memory count
}

const commandTimeout = time.Minute

// newHosts returns hosts also beside an error, to be closed.
func newHosts(p plan, number int) (*hosts, error) {
	h, err := apart(p, number)
	if err != nil {
		return h, err
	}
	if err := h.ip(fmt.Sprintf("link add u netns %s mtu 1500 type veth peer name u netns %s mtu 1500", h.ns[0], h.ns[1])); err != nil {
		return h, err
	}
	return h, h.wired()
}

// apart returns hosts without a wire, also beside an error, to be closed.
func apart(p plan, number int) (*hosts, error) {
	name := fmt.Sprint(prefix(os.Getpid()), number)
	h := &hosts{dir: filepath.Join(p.dir, fmt.Sprint(number)), farlan: p.farlan, ns: [2]string{name + "a", name + "b"}}
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		return h, err
	}
	for _, ns := range h.ns {
		if err := h.ip("netns add " + ns); err != nil {
			return h, err
		}
	}
	return h, nil
}

// wired waits for both ends of the wire, and sets them up.
func (h *hosts) wired() error {
	return h.both(func(side int) error {
		return errors.Join(h.ipIn(side, "link set lo up"), h.up(side, "u", underlay(side)))
	})
}

// close ends what was spawned, and takes the namespaces away.
func (h *hosts) close() {
	for _, c := range h.spawned {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	for _, ns := range h.ns {
		_ = h.ip("netns del " + ns)
	}
	os.RemoveAll(h.dir)
}

// underlay is the address of a side on the wire, overlay the one that the
// tunnels get.
func underlay(side int) string { return fmt.Sprintf("10.77.0.%d", side+1) }
func overlay(side int) string  { return fmt.Sprintf("10.78.0.%d", side+1) }

func (h *hosts) both(do func(side int) error) error {
	for side := range h.ns {
		if err := do(side); err != nil {
			return err
		}
	}
	return nil
}

// offloadsOff makes the wire one as below a network card without segmentation
// offload: no packet on it is longer than its MTU.
func (h *hosts) offloadsOff() error {
	return h.both(func(side int) error {
		_, err := h.in(side, "ethtool", "-K", "u", "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
		return err
	})
}

// up waits for an interface, which a daemon may yet have to make, and gives it
// an address.
func (h *hosts) up(side int, name, addr string) error {
	deadline := time.Now().Add(10 * time.Second)
	for h.ipIn(side, "link show "+name) != nil {
		if time.Now().After(deadline) {
			return fmt.Errorf("there is no interface %s on side %d", name, side)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(h.ipIn(side, "addr replace "+addr+"/24 dev "+name), h.ipIn(side, "link set "+name+" up"))
}

// run runs a command to its end, which is near.
func run(name string, args ...string) (string, error) {
	return runFor(commandTimeout, name, args...)
}

func runFor(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var out, complaint bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(complaint.String()+out.String()))
	}
	return out.String(), nil
}

func (h *hosts) ip(args string) error {
	_, err := run("ip", strings.Fields(args)...)
	return err
}

func (h *hosts) ipIn(side int, args string) error { return h.ip("-n " + h.ns[side] + " " + args) }

// in runs a command in a namespace.
func (h *hosts) in(side int, args ...string) (string, error) {
	return h.inFor(commandTimeout, side, args...)
}

func (h *hosts) inFor(limit time.Duration, side int, args ...string) (string, error) {
	return runFor(limit, "ip", append([]string{"netns", "exec", h.ns[side]}, args...)...)
}

// spawn runs a program in a namespace until the hosts are closed.
func (h *hosts) spawn(side int, args ...string) (*exec.Cmd, error) {
	c := h.command(side, args...)
	log, err := os.Create(filepath.Join(h.dir, fmt.Sprint("log", len(h.spawned))))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return nil, err
	}
	h.spawned = append(h.spawned, c)
	return c, nil
}

// daemon spawns an end of the tunnel.
func (h *hosts) daemon(side int, args ...string) error {
	c, err := h.spawn(side, args...)
	if err == nil {
		h.daemons = append(h.daemons, c)
	}
	return err
}

// command is a program in a namespace. 'ip netns exec' becomes the program, so
// that the process is the program's.
func (h *hosts) command(side int, args ...string) *exec.Cmd {
	c := exec.Command("ip", append([]string{"netns", "exec", h.ns[side]}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// write makes a file in the hosts' folder, and returns its path.
func (h *hosts) write(path, text string) (string, error) {
	path = filepath.Join(h.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// lastWords is the end of the daemons' logs, for an error.
func (h *hosts) lastWords() string {
	var words strings.Builder
	for i := range h.spawned {
		text, err := os.ReadFile(filepath.Join(h.dir, fmt.Sprint("log", i)))
		if err == nil && len(bytes.TrimSpace(text)) > 0 {
			fmt.Fprintf(&words, "; log %d: %s", i, tail(string(text)))
		}
	}
	return words.String()
}

// tail is the last lines of a text, as one.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " / ")
}
