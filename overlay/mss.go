package overlay

import "encoding/binary"

// ClampMSS lowers the maximum segment size that a TCP SYN or SYN-ACK asks for
// to max4 over IPv4 and max6 over IPv6 (0: leave it), so that both ends make
// segments that fit an overlay datagram, and says whether it changed the frame.
// A segment without the option is left alone: its sender then takes 536 (1220)
// bytes, which fit (RFC 9293 § 3.7.1). head is the start of the frame with all
// headers; o is the frame's: a checksum that is there is kept right (RFC 1624),
// one that isn't there yet doesn't cover the option so far.
func ClampMSS(head []byte, o Offload, max4, max6 int) bool {
	if len(head) < MinFrame {
		return false
	}
	kind, at, _ := etherType(head)
	var l4, most int
	switch kind {
	case etherIPv4:
		l4, most = tcp4(head[at:]), max4
	case etherIPv6:
		l4, most = tcp6(head[at:]), max6
	}
	const header, syn = 20, 0x02
	if l4 == 0 || len(head) < at+l4+header || head[at+l4+13]&syn == 0 || most <= 0 {
		return false
	}
	t := head[at+l4:]
	n := int(t[12]>>4) * 4
	if n < header || n > len(t) {
		return false
	}
	return clampOptions(t[:n], o.Start == 0, uint16(min(most, 1<<16-1)))
}

// clampOptions lowers every such option in the TCP header t; the last one is
// what most systems go by. An option whose length can't be ends the search.
func clampOptions(t []byte, complete bool, most uint16) (changed bool) {
	const end, pad, mss = 0, 1, 2 // kinds of options
	for at := 20; at < len(t) && t[at] != end; {
		if t[at] == pad {
			at++
			continue
		}
		if at+2 > len(t) || t[at+1] < 2 || at+int(t[at+1]) > len(t) {
			break
		}
		if value := t[at+2:]; t[at] == mss && t[at+1] == 4 && binary.BigEndian.Uint16(value) > most {
			old := binary.BigEndian.Uint16(value)
			binary.BigEndian.PutUint16(value, most)
			if complete {
				amend(t[16:18], old, most, at%2 != 0)
			}
			changed = true
		}
		at += int(t[at+1])
	}
	return changed
}

// amend makes a checksum right after a word that it covers has changed: equation
// 3 of RFC 1624. At an odd offset the word lies across two words of the sum,
// whose bytes it fills the other way round (RFC 1071 § 2).
func amend(sum []byte, old, now uint16, odd bool) {
	if odd {
		old, now = old<<8|old>>8, now<<8|now>>8
	}
	s := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^old) + uint32(now)
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}

// tcp4 returns where the TCP header starts in the IPv4 packet h, 0 if it is
// not there; a later fragment has none.
func tcp4(h []byte) int {
	if len(h) < 20 || h[0]>>4 != 4 || h[0]&0xf < 5 || h[9] != protocolTCP || binary.BigEndian.Uint16(h[6:])&0x1fff != 0 {
		return 0
	}
	return int(h[0]&0xf) * 4
}

// tcp6 is tcp4 for IPv6.
func tcp6(h []byte) int {
	if len(h) < 40 || h[0]>>4 != 6 {
		return 0
	}
	if h[6] == protocolTCP {
		return 40
	}
	next, at := skipHeaders(h, h[6], 40)
	if next == protocolFragment && at+8 <= len(h) && binary.BigEndian.Uint16(h[at+2:])>>3 == 0 {
		next, at = skipHeaders(h, h[at], at+8)
	}
	if next != protocolTCP {
		return 0
	}
	return at
}
