//go:build linux

package vlan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/reserve"
)

// A tagged is a VLAN's interface where the kernel has none of its own, as those of micro VMs: a
// TAP, between which and the device two programs in the kernel move packets, and put the tag on
// them or take it off. All of it vanishes with this process, however that ends.
type tagged struct {
	parent int
	files  []int // descriptors: the TAP's, and those that hold the programs in their places
}

// makeTagged makes one.
func (k *kernel) makeTagged(parent link, name string, vlan uint16) (index int, t *tagged, err error) {
	t = &tagged{parent: parent.index}
	if index, err = t.make(k, parent, name, vlan); err != nil {
		t.close()
		return 0, nil, err
	}
	return index, t, nil
}

func (t *tagged) make(k *kernel, parent link, name string, vlan uint16) (index int, err error) {
	k.doing("tap")
	if err = t.openTAP(name); err != nil {
		return 0, err
	}
	l, err := k.handle.LinkByName(name)
	if err != nil {
		return 0, err
	}
	index = l.Attrs().Index
	if err = k.handle.LinkSetAlias(l, k.alias); err != nil {
		return 0, fmt.Errorf("alias: %w", err)
	}
	if len(parent.mac) > 0 {
		if err = k.handle.LinkSetHardwareAddr(l, parent.mac); err != nil {
			return 0, fmt.Errorf("hardware address: %w", err)
		}
	}
	k.doing("programs")
	if err = t.place(push(vlan, parent.index), index, unix.BPF_TCX_EGRESS); err != nil {
		return 0, err
	}
	return index, t.place(pop(vlan, index), parent.index, unix.BPF_TCX_INGRESS)
}

// openTAP makes a TAP that lasts as long as its descriptor.
func (t *tagged) openTAP(name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("open /dev/net/tun", err)
	}
	t.files = append(t.files, fd)
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	switch err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); {
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL):
		return foreign(name)
	case err != nil:
		return os.NewSyscallError("make a TAP", err)
	}
	// Nobody reads from it: packets leave by the device, which sums and cuts what it can't send
	// as it is. Without this the kernel would cut super-packets here, and older ones refuse them.
	const offload = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_USO4 | unix.TUN_F_USO6
	return os.NewSyscallError("have a TAP take super-packets", unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload))
}

// place loads a program and has an interface run it as long as the descriptor lasts.
func (t *tagged) place(code []instruction, index int, where uint32) error {
	program, err := load(code)
	if err != nil {
		return fmt.Errorf("program: %w", err)
	}
	defer func() { _ = unix.Close(program) }() // its place has it
	attr := struct{ program, target, where, flags uint32 }{uint32(program), uint32(index), where, 0}
	n, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_LINK_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if e != 0 {
		return os.NewSyscallError("place a program", e)
	}
	t.files = append(t.files, int(n))
	return nil
}

// close takes the interface away, but for as long as a program that is just being started has
// copies of the descriptors: who can't wait removes it first.
func (t *tagged) close() {
	for _, fd := range t.files {
		_ = unix.Close(fd)
	}
	t.files = nil
}

// hasTagged says whether an interface is there and as it was made.
func (k *kernel) hasTagged(at *port, parent link, name string) bool {
	l, err := k.handle.LinkByIndex(at.index)
	return err == nil && l.Attrs().Name == name && l.Attrs().Alias == k.alias && at.tagged.parent == parent.index
}

// An instruction is one of eBPF's (RFC 9669 § 3); of registers the low half is the destination.
type instruction struct {
	op, registers byte
	offset        int16
	value         int32
}

// What the programs use of bpf(2) and of struct __sk_buff.
const (
	loadTries = 10 // of a program, see load

	vlanPush, vlanPop, redirect     = 18, 19, 23
	vlanPresent, vlanTag, vlanProto = 20, 24, 28
	nextProgram                     = -1 // TCX_NEXT
)

// etherVLAN is IEEE 802.1Q's type as it is on the wire.
var etherVLAN = int32(binary.NativeEndian.Uint16([]byte{0x81, 0x00}))

func set(register byte, value int32) instruction {
	return instruction{op: unix.BPF_ALU64 | unix.BPF_MOV, registers: register, value: value}
}

func field(register byte, offset int16) instruction { // r1 is the packet
	return instruction{op: unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, registers: 1<<4 | register, offset: offset}
}

func unless(register byte, value int32, skip int16) instruction {
	return instruction{op: unix.BPF_JMP | unix.BPF_JNE, registers: register, value: value, offset: skip}
}

func call(function int32) instruction {
	return instruction{op: unix.BPF_JMP | unix.BPF_CALL, value: function}
}

var exit = instruction{op: unix.BPF_JMP | unix.BPF_EXIT}

// push puts a tag on all packets and has them leave by interface index.
func push(vlan uint16, index int) []instruction {
	return []instruction{
		set(2, etherVLAN), set(3, int32(vlan)), call(vlanPush),
		set(1, int32(index)), set(2, 0), call(redirect), exit,
	}
}

// pop takes the tag off those of a VLAN and has them come in by interface index; others go on.
func pop(vlan uint16, index int) []instruction {
	return []instruction{
		field(2, vlanPresent), unless(2, 1, 10),
		field(2, vlanProto), unless(2, etherVLAN, 8),
		field(2, vlanTag),
		{op: unix.BPF_ALU64 | unix.BPF_AND, registers: 2, value: 0xfff},
		unless(2, int32(vlan), 5),
		call(vlanPop),
		set(1, int32(index)), set(2, unix.BPF_F_INGRESS), call(redirect), exit,
		set(0, nextProgram), exit,
	}
}

// load hands a program to the kernel.
func load(code []instruction) (fd int, err error) {
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

// noVLANs says that a kernel has neither VLANs nor what stands in for them.
func noVLANs(device string, err error) error {
	return fmt.Errorf("%w: this kernel has no VLANs (module 8021q), or %s can't have any; nor can the agent put the tags on itself (which takes CAP_BPF and Linux 6.6): %w", reserve.ErrUnsupported, device, err)
}
