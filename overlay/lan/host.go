//go:build linux

package lan

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/tap"
)

const (
	// hostMark is the mark of what the port hands to this host's stack: it isn't captured again.
	hostMark = 0x6661726c
	// maxFriends is how many far stations this host talks to at a time; of more, those that
	// it heard of first wait until they are heard again.
	maxFriends = 64
	// loadTries is how often a program that couldn't be loaded is loaded again.
	loadTries = 10
)

// A host is the way between the port and this host's own stack. What that sends to groups and
// to far stations is captured by a packet socket of its own, so that the filter of the port's
// stays as it is. What is for it is written to a TAP, from where a program in the kernel moves
// it to the interface, as if it had come by the wire. The TAP has no address, and vanishes with
// this process, however that ends.
type host struct {
	own     overlay.MAC
	tap     *tap.Port
	fd      int
	reading *reading

	friends atomic.Pointer[map[overlay.MAC]bool] // far stations that have sent this host something
	mu      sync.Mutex
	order   []overlay.MAC // of them, the newest last
}

// openHost makes the way to the stack of this host, which has address own on the interface.
func openHost(index, mtu int, own overlay.MAC) (h *host, err error) {
	name := fmt.Sprint("fl-host", index)
	t, err := tap.Open(tap.Config{Name: name, MTU: mtu})
	if err != nil {
		return nil, err
	}
	h = &host{own: own, tap: t, fd: -1, reading: newReading()}
	defer func() {
		if err != nil {
			_ = h.close()
		}
	}()
	// What the TAP itself would say to nobody. Without IPv6 there is no such file.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0o644)
	if err = divert(name, index); err != nil {
		return nil, err
	}
	program, err := bpf.Assemble(hostFilter(own, nil))
	if err != nil {
		return nil, err
	}
	if h.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	address := unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: index}
	return h, errors.Join(
		wrap("set header", unix.SetsockoptInt(h.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)),
		wrap("ask for VLAN tags", unix.SetsockoptInt(h.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)),
		wrap("attach filter", attach(h.fd, program)),
		setBuffer(h.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer),
		os.NewSyscallError("bind", unix.Bind(h.fd, &address)),
	)
}

// divert has what is written to the TAP called name come in by interface index, with hostMark.
// When the TAP vanishes so does what is made here.
func divert(name string, index int) error {
	program, err := loadDiversion(index)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(program) }() // the filter has it
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	at := link.Attrs().Index
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: at, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err = netlink.QdiscAdd(qdisc); err != nil {
		return wrap("add a queueing discipline for what comes in", err)
	}
	return wrap("add a filter for what comes in", netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: at, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          program, Name: "farlan", DirectAction: true,
	}))
}

// loadDiversion loads the program: skb->mark = hostMark; return bpf_redirect(index, BPF_F_INGRESS).
func loadDiversion(index int) (fd int, err error) {
	type instruction struct {
		op, registers byte // of registers the low half is the destination
		offset        int16
		value         int32
	}
	const markOffset, redirect = 8, 23
	code := []instruction{
		{op: unix.BPF_ALU64 | unix.BPF_MOV, registers: 2, value: hostMark},
		{op: unix.BPF_STX | unix.BPF_MEM | unix.BPF_W, registers: 2<<4 | 1, offset: markOffset},
		{op: unix.BPF_ALU64 | unix.BPF_MOV, registers: 1, value: int32(index)},
		{op: unix.BPF_ALU64 | unix.BPF_MOV, registers: 2, value: unix.BPF_F_INGRESS},
		{op: unix.BPF_JMP | unix.BPF_CALL, value: redirect},
		{op: unix.BPF_JMP | unix.BPF_EXIT},
	}
	license := []byte("GPL\x00")
	attr := struct { // of union bpf_attr, what BPF_PROG_LOAD takes first
		kind, count   uint32
		code, license uint64
		level, size   uint32
		log           uint64
	}{
		kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(code)),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	n, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	for range loadTries { // a signal, as Go sends itself, has the kernel's verifier give up
		if e != unix.EAGAIN {
			break
		}
		n, _, e = unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if e != 0 {
		return -1, os.NewSyscallError("bpf", e)
	}
	return int(n), nil
}

// hostFilter passes what this host, with address own, sends to groups and to its friends,
// and, as its neighbour table may know one from before, ARP and neighbour discovery. The
// port's own beacons don't pass, nor what goes to the next bridge only.
func hostFilter(own overlay.MAC, friends []overlay.MAC) []bpf.Instruction {
	word := func(b []byte) uint32 {
		return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	}
	half := func(b []byte) uint32 { return uint32(b[0])<<8 | uint32(b[1]) }
	pass, drop := bpf.RetConstant{Val: 1 << 18}, bpf.RetConstant{Val: 0}
	all := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 10},
		bpf.LoadAbsolute{Off: 6, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: word(own[:4]), SkipTrue: 8},
		bpf.LoadAbsolute{Off: 10, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: half(own[4:]), SkipTrue: 6},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: overlay.EtherSegment, SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 4},
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0180c200, SkipTrue: 1},
		bpf.Jump{Skip: 2},
		drop,
		pass,
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 1, SkipTrue: 1},
		pass,
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 7},
		bpf.LoadAbsolute{Off: 14 + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 14 + 40, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 135, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: 136, SkipTrue: 2},
		pass,
		bpf.Jump{Skip: 0},
	}
	for _, m := range friends {
		all = append(all,
			bpf.LoadAbsolute{Off: 2, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: word(m[2:]), SkipTrue: 3},
			bpf.LoadAbsolute{Off: 0, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: half(m[:2]), SkipTrue: 1},
			pass)
	}
	return append(all, drop)
}

// takes says whether a frame is for this host, and whether it is for it alone.
func (h *host) takes(f *overlay.Frame) (takes, alone bool) {
	if len(f.Head) < overlay.MinFrame {
		return false, false
	}
	dst := overlay.MAC(f.Head[:6])
	return dst == h.own || dst.Group() && !overlay.IsSegment(f.Head), dst == h.own
}

// write hands one frame to the stack of this host, which can answer its source from then on.
func (h *host) write(f []overlay.Frame, alone bool) int {
	if alone {
		h.befriend(overlay.MAC(f[0].Head[6:12]))
	}
	return h.tap.Write(0, f)
}

// befriend has what this host sends to m captured.
func (h *host) befriend(m overlay.MAC) {
	if known := h.friends.Load(); known != nil && (*known)[m] {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Contains(h.order, m) {
		return
	}
	if len(h.order) >= maxFriends {
		h.order = slices.Delete(h.order, 0, 1)
	}
	h.order = append(h.order, m)
	program, err := bpf.Assemble(hostFilter(h.own, h.order))
	if err != nil || attach(h.fd, program) != nil {
		return // its ARP requests are captured in any case
	}
	known := make(map[overlay.MAC]bool, len(h.order))
	for _, m := range h.order {
		known[m] = true
	}
	h.friends.Store(&known)
}

func (h *host) close() error {
	err := h.tap.Close()
	if h.fd >= 0 {
		err = errors.Join(err, unix.Close(h.fd))
	}
	return err
}
