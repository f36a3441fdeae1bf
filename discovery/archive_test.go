package discovery

import (
	"errors"
	"slices"
	"testing"

	"farlan/overlay"
)

// Stores that share an archive keep one copy of each record, and refuse what others refuse:
// a record that only looks like one that was verified, and one of another network.
func TestArchive(t *testing.T) {
	var a Archive
	r := signed(0, KindMember, version(1), start+3600, memberBody("a"))
	forged := slices.Clone(r.Bytes())
	forged[len(forged)-1] ^= 1
	take := func(network byte, b []byte) (*Store, error) {
		s := NewStore(agentID(9), testKey(network), 1, Limits{})
		s.Share(&a)
		s.Connected(at(2), agentID(8))
		msg := append([]byte{messageVersion, sectionRecord, byte(len(b) >> 8), byte(len(b))}, b...)
		return s, s.Receive(at(2), agentID(8), msg)
	}
	first, err := take(7, r.Bytes())
	second, again := take(7, slices.Clone(r.Bytes()))
	if err != nil || again != nil || first.Hash() == (&Store{}).Hash() || first.Hash() != second.Hash() {
		t.Fatal(err, again, "or a store took nothing")
	}
	one, _ := first.Record(agentID(0), KindMember)
	two, _ := second.Record(agentID(0), KindMember)
	if &one.Bytes()[0] != &two.Bytes()[0] {
		t.Error("each store has a copy of its own")
	}
	if s, err := take(7, forged); !errors.Is(err, ErrSignature) || len(s.Origins()) != 0 {
		t.Error("a forged copy of a verified record was taken:", err)
	}
	if s, err := take(8, r.Bytes()); !errors.Is(err, ErrSignature) || len(s.Origins()) != 0 {
		t.Error("a record was taken that is another network's:", err)
	}
}

// An archive is bounded.
func TestArchiveForgets(t *testing.T) {
	var a Archive
	record := func(agent int, version byte) Record {
		return Record{Origin: overlay.AgentID{byte(agent >> 16), byte(agent >> 8), byte(agent)}, Kind: KindMember, encoded: []byte{version}}
	}
	found := func(agent int, version byte) bool { return a.find(record(agent, version), [][32]byte{{}}) != nil }
	const kept = 2 + mostFormer
	for v := range byte(kept + 1) {
		a.add(&entry{record: record(1, v)})
	}
	for v := range byte(kept + 1) {
		if found(1, v) != (v > 0) || found(2, v) {
			t.Errorf("not the last %d records of an agent are found, but version %d", kept, v)
		}
	}
	for i := range 3 * mostArchived {
		if a.add(&entry{record: record(i, 0)}); len(a.last) > mostArchived {
			t.Fatalf("records of %d agents", len(a.last))
		}
	}
	if !found(3*mostArchived-1, 0) {
		t.Error("the last record isn't found")
	}
}
