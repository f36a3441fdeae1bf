package reserve

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// ParseID reads what ID.String writes, and nothing else.
func ParseID(s string) (ID, error) {
	number, segment, _ := strings.Cut(s, "-")
	b, err := hex.DecodeString(number)
	n, bad := strconv.ParseUint(segment, 10, 8)
	if err != nil || bad != nil || len(b) != 16 {
		return ID{}, fmt.Errorf("%.40q is no reservation's id", s)
	}
	id := ID{Reservation: [16]byte(b), Segment: uint8(n)}
	if id.String() != s {
		return ID{}, fmt.Errorf("%.40q is no reservation's id", s)
	}
	return id, nil
}
