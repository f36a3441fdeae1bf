package guest

import (
	"fmt"
	"strconv"
)

// memory is enough for the kernel, busybox and small files, in MB.
const memory = 192

// A Machine says what QEMU is to run.
type Machine struct {
	Kernel  Kernel
	Initrd  string   // BuildInitrd's
	Memory  int      // in MB; 0 is enough for the kernel, busybox and small files
	Append  string   // what else the kernel's command line says
	Devices []string // QEMU's further arguments, for example TAP's

	Console  string // QEMU's character device for the first serial port; "" is its standard output
	Commands string // the Unix socket of the second one, on which the guest takes commands; "" is none
	Control  string // the Unix socket of QEMU's monitor protocol; "" is none
}

// Args returns QEMU's program and its arguments.
func (m Machine) Args() ([]string, error) {
	qemu, err := FindProgram("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	if m.Memory == 0 {
		m.Memory = memory
	}
	if m.Console == "" {
		m.Console = "stdio"
	}
	args := []string{
		qemu, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", strconv.Itoa(m.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", m.Console,
		"-kernel", m.Kernel.Image, "-initrd", m.Initrd,
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check " + m.Append,
	}
	if m.Commands != "" {
		args = append(args, "-serial", "unix:"+m.Commands+",server=on,wait=off")
	}
	if m.Control != "" {
		args = append(args, "-qmp", "unix:"+m.Control+",server=on,wait=off")
	}
	return append(args, m.Devices...), nil
}

// TAP returns the arguments for a card with address mac at a TAP interface that is there.
func TAP(name, mac string) []string {
	return NIC(fmt.Sprintf("tap,id=lan,ifname=%s,script=no,downscript=no", name), mac)
}

// NIC returns the arguments for a card with address mac at one of QEMU's network back ends,
// whose id must be lan.
func NIC(netdev, mac string) []string {
	return []string{"-netdev", netdev, "-device", "virtio-net-pci,netdev=lan,romfile=,mac=" + mac}
}
