package discovery

import (
	"math"
	"math/bits"
)

// The numbers in rows of the map are squeezed as floating-point numbers are, by
// integers alone, so that all processors agree: m bits of mantissa below the exponent.
// Small numbers are exact, and the codes are in the order of the numbers. With 9 bits
// of mantissa a number is off by 0.1 % at most, with 3 by 6 %.
const (
	fine   = 9 // in 16 bits
	coarse = 3 // in 8 bits
)

// squeeze returns the code whose number is the nearest to v.
func squeeze(v uint64, m int) uint16 {
	v = min(v, 1<<60) // room to round up
	shift := bits.Len64(v) - (m + 1)
	if shift <= 0 {
		return uint16(v)
	}
	v += 1 << (shift - 1)
	if bits.Len64(v)-(m+1) > shift {
		shift++
	}
	return uint16((shift+1)<<m | int(v>>shift)&(1<<m-1))
}

// expand returns the number of a code, more than any that squeeze makes if the code is
// none of its own.
func expand(code uint16, m int) uint64 {
	exponent, mantissa := int(code>>m), uint64(code)&(1<<m-1)
	switch {
	case exponent == 0:
		return mantissa
	case exponent > 62-m:
		return math.MaxUint64
	}
	return (1<<m | mantissa) << (exponent - 1)
}
