package discovery

import "testing"

// A member's flags don't disturb each other.
func TestMemberFlags(t *testing.T) {
	seen := make(map[byte]bool)
	for mapping := range MappingByDestination + 1 {
		for _, left := range []bool{false, true} {
			for _, lan := range []bool{false, true} {
				m := Member{Name: "a", Left: left, LAN: lan, Mapping: mapping}
				b, err := m.Append(nil)
				if err != nil {
					t.Fatal(err)
				}
				got, err := ParseMember(b)
				if err != nil || got.Left != left || got.LAN != lan || got.Mapping != mapping || seen[b[0]] {
					t.Errorf("%+v became %+v, %v; the flags %08b were there: %v", m, got, err, b[0], seen[b[0]])
				}
				seen[b[0]] = true
			}
		}
	}
}
