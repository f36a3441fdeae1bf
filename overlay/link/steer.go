//go:build linux

package link

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// Places of the sockets in the port's group: in the order of joining it. The
// Handshake socket comes after the bulk ones, where nothing is steered, and Train
// after it.
const (
	controlPlace = iota
	probePlace
	delayPlace
	bulkPlace // of lane 0
)

// What the program looks at: see overlay/wire.go for the header.
const (
	quicBits = 0xc0 // bits of the first byte of which QUIC sets one, we none
	kindBits = 0x0f // our kind, in the first byte
	laneByte = 2    // where data, and what is relayed, tells class and lane
)

// program returns the program that chooses a datagram's place. It sees the
// payload. A datagram that ends before a byte that it loads goes to place 0, as
// BPF has it.
func program(lanes int) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: quicBits, SkipFalse: 1},
		bpf.RetConstant{Val: controlPlace},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: kindBits},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(overlay.KindTrain), SkipFalse: 1},
		bpf.RetConstant{Val: uint32(bulkPlace + lanes + 1)},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(overlay.KindData), SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(overlay.KindRelay), SkipTrue: 1},
		bpf.RetConstant{Val: probePlace},
		bpf.LoadAbsolute{Off: laneByte, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: overlay.LaneDelay, SkipFalse: 1},
		bpf.RetConstant{Val: delayPlace},
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: uint32(lanes)},
		bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: bulkPlace},
		bpf.RetA{},
	}
}

// steer attaches the program to the group that fd belongs to.
func steer(fd, lanes int) error {
	prog, err := bpf.Assemble(program(lanes))
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return wrap("attach port program",
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &fprog))
}

// ours says whether datagram d is one of ours, not QUIC's.
func ours(d []byte) bool { return len(d) > 0 && d[0]&quicBits == 0 }
