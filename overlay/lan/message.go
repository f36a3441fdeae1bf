//go:build linux

package lan

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/internal/vnet"
)

func parse16(b [2]byte) uint16 { return binary.NativeEndian.Uint16(b[:]) }

const (
	tagLen   = 4
	auxLen   = 20 // of struct tpacket_auxdata
	auxSpace = 48 // at least unix.CmsgSpace(auxLen)
)

// A reading is the scratch of Read.
type reading struct {
	header vnet.Header
	iovs   [2]unix.Iovec // the header, and a slot
	aux    [auxSpace]byte
	msg    unix.Msghdr
}

func newReading() *reading {
	r := new(reading)
	r.iovs[0].Base = &r.header[0]
	r.iovs[0].SetLen(len(r.header))
	r.msg.Iov = &r.iovs[0]
	r.msg.SetIovlen(len(r.iovs))
	r.msg.Control = &r.aux[0]
	return r
}

// receive puts the next frame into slot, its VLAN tag put back, and returns its
// length and that of the tag. A frame that was longer than slot has none.
func (r *reading) receive(fd int, slot []byte) (n, tag int, e unix.Errno) {
	r.iovs[1].Base = &slot[0]
	r.iovs[1].SetLen(len(slot) - tagLen)
	r.msg.SetControllen(auxSpace)
	// Raw, as it doesn't wait: see the package tap.
	got, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.msg)), unix.MSG_DONTWAIT)
	n = int(got) - vnet.Len
	if e != 0 || n < overlay.MinFrame || r.msg.Flags&unix.MSG_TRUNC != 0 {
		return 0, 0, e
	}
	if t, tagged := vlanTag(r.aux[:r.msg.Controllen]); tagged {
		const addresses = 12
		copy(slot[addresses+tagLen:], slot[addresses:n])
		copy(slot[addresses:], t[:])
		tag = tagLen
	}
	return n + tag, tag, 0
}

// vlanTag returns the tag that the kernel took off a frame, as told by the
// control message in aux.
func vlanTag(aux []byte) (tag [tagLen]byte, ok bool) {
	if len(aux) < unix.CmsgLen(auxLen) {
		return tag, false
	}
	h, data, _, err := unix.ParseOneSocketControlMessage(aux)
	if err != nil || h.Level != unix.SOL_PACKET || h.Type != unix.PACKET_AUXDATA || len(data) < auxLen {
		return tag, false
	}
	// struct tpacket_auxdata: status at 0, tag at 16, its type at 18.
	status := binary.NativeEndian.Uint32(data)
	if status&unix.TP_STATUS_VLAN_VALID == 0 {
		return tag, false
	}
	protocol := uint16(unix.ETH_P_8021Q)
	if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
		protocol = binary.NativeEndian.Uint16(data[18:])
	}
	binary.BigEndian.PutUint16(tag[:], protocol)
	binary.BigEndian.PutUint16(tag[2:], binary.NativeEndian.Uint16(data[16:]))
	return tag, true
}

// message is struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// maxPieces is how many pieces the body of a frame may have: the kernel takes
// 1,024 in one message (UIO_MAXIOV), with those of the header and the head.
const maxPieces = 1024 - 2

// A writing is the scratch of one Write.
type writing struct {
	n, used int // of msgs, and of iovs
	msgs    [overlay.BatchFrames]message
	headers [overlay.BatchFrames]vnet.Header
	iovs    [2048]unix.Iovec // of all messages: a batch of super-frames in 45 pieces each
}

// load prepares as many frames as fit, without those that cannot be written,
// and returns how many it has seen.
func (w *writing) load(frames []overlay.Frame, mtu int) (seen int) {
	w.n, w.used = 0, 0
	for i := range frames {
		f := &frames[i]
		pieces := 2 + len(f.Body)
		if w.n == len(w.msgs) || (w.used+pieces > len(w.iovs) && w.n > 0) {
			break
		}
		seen++
		header := &w.headers[w.n]
		if len(f.Body) > maxPieces || !header.Set(f, mtu) {
			continue
		}
		v := w.iovs[w.used:][:pieces]
		w.used += pieces
		v[0].Base = &header[0]
		v[0].SetLen(len(header))
		v[1].Base = &f.Head[0]
		v[1].SetLen(len(f.Head))
		for j, b := range f.Body {
			v[2+j].Base = unsafe.SliceData(b)
			v[2+j].SetLen(len(b))
		}
		w.msgs[w.n].hdr.Iov = &v[0]
		w.msgs[w.n].hdr.SetIovlen(pieces)
		w.n++
	}
	return seen
}

// send sends what load prepared, passing over frames that are refused, and
// returns how many were not. The runtime is told of the system call: on
// virtual interfaces it may last a millisecond, as it does what the receiver
// does.
func (w *writing) send(fd int) (sent int) {
	for at := 0; at < w.n; {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&w.msgs[at])), uintptr(w.n-at), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			sent += int(n)
			at += int(n)
		case unix.EINTR:
		case unix.EAGAIN, unix.ENETDOWN, unix.ENXIO, unix.ENODEV: // the others would fare no better
			return sent
		default:
			at++
		}
	}
	return sent
}
