package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

const tunDevice = "/dev/net/tun"

// hostFindings looks at what an agent with a configuration needs of this host, in this
// process.
func hostFindings(c *config) []findingView {
	return append([]findingView{checkRights(c), checkTUN(c), checkKeyFile(c)}, checkBuffers()...)
}

// checkRights looks at the capabilities of this process.
func checkRights(c *config) findingView {
	const check = "rights"
	need := map[string]int{}
	if len(c.Taps) > 0 || len(c.LANs) > 0 {
		need["CAP_NET_ADMIN"] = unix.CAP_NET_ADMIN
	}
	if len(c.LANs) > 0 {
		need["CAP_NET_RAW"] = unix.CAP_NET_RAW
	}
	if p := c.Listen.Port(); p > 0 && p < 1024 {
		need["CAP_NET_BIND_SERVICE"] = unix.CAP_NET_BIND_SERVICE
	}
	has, err := capabilities()
	if err != nil {
		return findingView{check, levelWarn, fmt.Sprintf("this process's rights can't be read: %v", err), "see that /proc is mounted"}
	}
	var lacks []string
	for name, bit := range need {
		if has&(1<<bit) == 0 {
			lacks = append(lacks, name)
		}
	}
	slices.Sort(lacks)
	switch {
	case len(lacks) > 0:
		return findingView{
			check, levelFail, fmt.Sprintf("user %d lacks %s, which the configured ports take", os.Geteuid(), strings.Join(lacks, ", ")),
			"run it as root, or give it to the program: 'setcap " + strings.ToLower(strings.Join(lacks, ",")) + "+ep' and its path",
		}
	case len(need) == 0 && has == 0 && os.Geteuid() != 0:
		return fine(check, "user %d has none, and the configured ports take none; --tap and --lan would", os.Geteuid())
	case len(need) == 0:
		return fine(check, "no configured port takes any")
	}
	return fine(check, "all that the configured ports take")
}

// capabilities returns the effective capabilities of this process (capabilities(7)).
func capabilities() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status has no line CapEff")
}

// checkTUN opens the device that TAP interfaces are made with.
func checkTUN(c *config) findingView {
	if len(c.Taps)+len(c.LANs) == 0 && len(c.QEMUs) > 0 {
		return fine(tunDevice, "not needed: QEMU's sockets do without")
	}
	f, err := os.OpenFile(tunDevice, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err == nil {
		return fine(tunDevice, "can be opened%s", errText(f.Close()))
	}
	v := findingView{tunDevice, levelFail, err.Error(), "load the module with 'modprobe tun'; in a container hand the device in, as with --device " + tunDevice}
	if errors.Is(err, os.ErrPermission) {
		v.Fix = "run it as root, or let this user open " + tunDevice + ": 'chmod 666 " + tunDevice + "'; in a container its device rules must allow it"
	}
	if len(c.Taps) == 0 {
		v.Level, v.Detail = levelWarn, v.Detail+"; no TAP is configured, so that is no fault yet"
	}
	return v
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return ", but: " + err.Error()
}

// checkKeyFile reads the network key as the agent does.
func checkKeyFile(c *config) findingView {
	const check = "key file"
	keys, warning, err := readKeys(overlay.Instant(time.Now().UnixNano()), c.KeyFile)
	switch {
	case err != nil:
		return findingView{check, levelFail, err.Error(), cmp.Or(hintOf(err), "see that this user may read it")}
	case warning != nil:
		return findingView{check, levelWarn, warning.Error(), "while the network changes its key, members that missed it aren't heard; remove that file if no change is under way"}
	}
	return fine(check, "%s is of network %s, and its owner's alone", c.KeyFile, keys.Current().ID())
}
