package decide

import (
	"encoding/binary"
	"testing"

	"farlan/overlay"
)

// Agents that are too many for a picture come apart into areas that are about as large as
// others, and each decides for itself.
func TestApart(t *testing.T) {
	for _, count := range []int{1025, 1500, 3000, 10000} {
		sizes := make(map[uint32]int)
		for i := range count {
			var id overlay.AgentID
			binary.BigEndian.PutUint32(id[:], uint32(i)*2654435761)
			sizes[Usual.Apart(id, count)]++
		}
		for area, n := range sizes {
			if area == 0 || n > 4*Usual.Most/3 || n < Usual.Least {
				t.Errorf("of %d agents %d are in area %d", count, n, area)
			}
		}
		t.Logf("%d agents come apart into %d areas", count, len(sizes))
	}
	if area := Usual.Apart(overlay.AgentID{1}, Usual.Most); area != 0 {
		t.Errorf("few are in area %d", area)
	}
}
