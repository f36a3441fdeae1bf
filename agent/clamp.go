package agent

import (
	"encoding/binary"

	"farlan/overlay"
)

// clamp lowers the segment size that a TCP connection's first segments propose
// to what fits a datagram of a size, headers and all.
func clamp(f *overlay.Frame, size int) {
	h := f.Head
	link := overlay.MinFrame
	if len(h) > 18 && binary.BigEndian.Uint16(h[12:]) == 0x8100 {
		link += 4
	}
	const ip4, ip6, tcp = 20, 40, 20
	overlay.ClampMSS(h, f.Offload, size-overlay.Overhead(link+ip4+tcp), size-overlay.Overhead(link+ip6+tcp))
}
