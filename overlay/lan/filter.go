//go:build linux

package lan

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// filter passes the frames that are nobody's business of this host's own: from
// other machines, to others or to a group. What the host sends never passes,
// so neither do the frames that the port writes nor the agent's own datagrams;
// what is sent to the host doesn't either, its half of those datagrams again; and what
// the port handed to the host's stack, see host.
// Addresses that bridges don't forward (IEEE 802.1D § 7.12.6) don't pass.
var filter = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtMark},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: hostMark, SkipTrue: 10},
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_BROADCAST, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_MULTICAST, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 0, Size: 4},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0180c200, SkipTrue: 3},
	bpf.LoadAbsolute{Off: 4, Size: 2},
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfff0},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
	bpf.RetConstant{Val: 1 << 18}, // all of the frame
	bpf.RetConstant{Val: 0},
}

// setFilter attaches the filter to packet socket fd.
func setFilter(fd int) error {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	return attach(fd, program)
}

// attach attaches a filter, in place of the one that there is.
func attach(fd int, program []bpf.RawInstruction) error {
	f := make([]unix.SockFilter, len(program))
	for i, in := range program {
		f[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
}
