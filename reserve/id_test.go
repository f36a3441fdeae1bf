package reserve

import "testing"

func TestParseID(t *testing.T) {
	id := ID{Reservation: [16]byte{1, 2, 15: 0xfe}, Segment: 7}
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("ParseID(%v) = %v, %v", id, got, err)
	}
	for _, s := range []string{
		"", "-", "0-0", "010200000000000000000000000000fe", "010200000000000000000000000000fe-", "010200000000000000000000000000fe-256",
		"010200000000000000000000000000fe-07", "010200000000000000000000000000FE-7", "010200000000000000000000000000fe-7-1", "010200000000000000000000000000f-7",
	} {
		if got, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", s, got)
		}
	}
}
