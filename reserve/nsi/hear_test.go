package nsi

import (
	"testing"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// FuzzHear: no callback makes the driver panic, and each is answered with something that can be
// read.
func FuzzHear(f *testing.F) {
	for _, m := range every() {
		if m.Header != (cs.Header{}) {
			f.Add(m.Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := cs.Parse(b)
		if err != nil {
			return
		}
		d := &Driver{cfg: Config{Requester: m.Requester, Provider: m.Provider, Now: func() overlay.Instant { return 1e18 }}, inbox: newInbox(), book: newBook()}
		d.book.put(entry{grant: reserve.Grant{Handle: m.Connection, State: reserve.Active}}, false)
		d.inbox.expect(m.Correlation, m.Connection)
		if m.Op == cs.Fault && m.Header == (cs.Header{}) {
			return // only a reply can be without a header
		}
		if _, err := cs.Parse(d.hear(m).Append(nil)); err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Reservations {
			d.read(r)
		}
		if m.Exception != nil {
			_ = said(m.Op, m.Exception, nil).Error()
		}
	})
}
