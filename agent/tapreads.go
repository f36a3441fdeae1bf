package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// tapReads counts the frames that a hypervisor has read from the TAP of a station. The nil one
// counts none.
type tapReads struct {
	name  string
	count *os.File
}

// findReads returns the count of the TAP by which a bridge reaches a station; nil if there is
// none, as that of a container, or it can't be told. own is the agent's own port of the bridge.
func findReads(bridge, own string, m overlay.MAC) *tapReads {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil
	}
	entries, err := netlink.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if len(e.HardwareAddr) != len(m) || overlay.MAC(e.HardwareAddr) != m || e.MasterIndex != master.Attrs().Index {
			continue
		}
		link, err := netlink.LinkByIndex(e.LinkIndex)
		if err != nil || link.Attrs().Name == own || link.Type() != "tuntap" {
			continue
		}
		if r, err := openReads(link.Attrs().Name, e.LinkIndex); err == nil {
			return r
		}
	}
	return nil
}

// openReads opens the count of a TAP. What the kernel calls sent is what was read (tun.c,
// tun_put_user).
func openReads(name string, index int) (*tapReads, error) {
	dir := "/sys/class/net/" + name
	b, err := os.ReadFile(dir + "/ifindex")
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(string(b)) != strconv.Itoa(index) {
		return nil, fmt.Errorf("%s is of another network namespace", dir)
	}
	f, err := os.Open(dir + "/statistics/tx_packets")
	if err != nil {
		return nil, err
	}
	return &tapReads{name, f}, nil
}

// read returns how many frames were read ever; false if the TAP is gone.
func (r *tapReads) read() (uint64, bool) {
	var b [24]byte
	n, err := r.count.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b[:n])), 10, 64)
	return v, err == nil
}

func (r *tapReads) close() {
	if r != nil {
		_ = r.count.Close()
	}
}
