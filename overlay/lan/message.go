//go:build linux

package lan

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"farlan/overlay"
)

// message is struct mmsghdr.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

func parse16(b [2]byte) uint16 { return binary.NativeEndian.Uint16(b[:]) }

const (
	receiveFrames = 32
	tagLen        = 4
	maxSuper      = 1<<16 + etherLen + 2*tagLen
	auxLen        = 20 // of struct tpacket_auxdata
	auxSpace      = 48 // at least unix.CmsgSpace(auxLen)
)

// received is what one system call took, in buffers that the next overwrites.
type received struct {
	n, at int // messages, and the next to look at
	err   error
	take  func(fd uintptr) bool // bound once: a closure per call would be garbage

	msgs  [receiveFrames]message
	iovs  [receiveFrames][2]unix.Iovec
	aux   [receiveFrames][auxSpace]byte
	heads [receiveFrames][vnetLen]byte
	bufs  [receiveFrames][tagLen + maxSuper]byte // room for a tag in front
}

func newReceived() *received {
	r := new(received)
	for i := range r.msgs {
		v := &r.iovs[i]
		v[0].Base, v[1].Base = &r.heads[i][0], &r.bufs[i][tagLen]
		v[0].SetLen(vnetLen)
		v[1].SetLen(maxSuper)
		h := &r.msgs[i].hdr
		h.Iov = &v[0]
		h.SetIovlen(len(v))
		h.Control = &r.aux[i][0]
	}
	r.take = r.recvmmsg
	return r
}

// recvmmsg takes what waits at fd; false means that nothing does.
func (r *received) recvmmsg(fd uintptr) bool {
	r.n, r.at = 0, 0
	for i := range r.msgs {
		r.msgs[i].hdr.SetControllen(auxSpace)
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&r.msgs[0])), receiveFrames, 0, 0, 0)
	switch e {
	case 0:
		r.n = int(n)
	case unix.EAGAIN:
		return false
	case unix.EINTR:
	default:
		r.err = e
	}
	return true
}

// next returns the next message, its VLAN tag put back. One that was longer
// than its buffer yields an empty frame.
func (r *received) next() (v vnet, frame []byte, ok bool) {
	if r.at == r.n {
		return v, nil, false
	}
	i := r.at
	r.at++
	m := &r.msgs[i]
	n := int(m.n) - vnetLen
	if m.hdr.Flags&unix.MSG_TRUNC != 0 || n < etherLen {
		return v, nil, true
	}
	v = parseVnet(&r.heads[i])
	frame = r.bufs[i][tagLen:][:n]
	if tag, tagged := vlanTag(r.aux[i][:m.hdr.Controllen]); tagged {
		frame = r.bufs[i][:tagLen+n]
		const addresses = 12
		copy(frame, frame[tagLen:][:addresses])
		copy(frame[addresses:], tag[:])
		v.start += tagLen
	}
	return v, frame, true
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

// A writing is the scratch of one Write.
type writing struct {
	n, sent int
	put     func(fd uintptr)

	msgs [overlay.BatchFrames]message
	iovs [overlay.BatchFrames][2]unix.Iovec
	head [vnetLen]byte // zero: a plain frame
}

func newWriting() *writing {
	w := new(writing)
	for i := range w.msgs {
		v := &w.iovs[i]
		v[0].Base = &w.head[0]
		v[0].SetLen(vnetLen)
		w.msgs[i].hdr.Iov = &v[0]
		w.msgs[i].hdr.SetIovlen(len(v))
	}
	w.put = w.sendmmsg
	return w
}

// load prepares as many frames as fit, without those that lack an Ethernet
// header, and returns how many it has seen.
func (w *writing) load(frames [][]byte) (seen int) {
	w.n = 0
	for _, f := range frames {
		if w.n == len(w.msgs) {
			break
		}
		seen++
		if len(f) < etherLen {
			continue
		}
		w.iovs[w.n][1].Base = &f[0]
		w.iovs[w.n][1].SetLen(len(f))
		w.n++
	}
	return seen
}

// sendmmsg sends what load prepared, passing over frames that are refused.
func (w *writing) sendmmsg(fd uintptr) {
	for at := 0; at < w.n; {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&w.msgs[at])), uintptr(w.n-at), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			w.sent += int(n)
			at += int(n)
		case unix.EINTR:
		case unix.EAGAIN, unix.ENETDOWN, unix.ENXIO, unix.ENODEV: // the others would fare no better
			return
		default:
			at++
		}
	}
}
