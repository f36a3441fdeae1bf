package cs

import (
	"bytes"
	"encoding/xml"
	"strconv"
	"time"

	"farlan/overlay"
)

// The namespaces, and the prefixes that are used for them here.
const (
	nsSOAP    = "http://schemas.xmlsoap.org/soap/envelope/"
	nsHeaders = "http://schemas.ogf.org/nsi/2013/12/framework/headers"
	nsTypes   = "http://schemas.ogf.org/nsi/2013/12/connection/types"
	nsP2P     = "http://schemas.ogf.org/nsi/2013/12/services/point2point"
)

// A writer puts elements behind each other. The schemas' inner elements have no namespace, so
// no default one may be declared, which encoding/xml can't do by itself.
type writer struct{ bytes.Buffer }

func (w *writer) start(name string) { w.WriteString("<" + name + ">") }
func (w *writer) end(name string)   { w.WriteString("</" + name + ">") }

func (w *writer) in(name string, inner func()) {
	w.start(name)
	inner()
	w.end(name)
}

func (w *writer) text(name, text string) {
	w.start(name)
	_ = xml.EscapeText(w, []byte(text)) // a Buffer takes everything
	w.end(name)
}

func (w *writer) maybe(name, text string) {
	if text != "" {
		w.text(name, text)
	}
}

func (w *writer) number(name string, n int64) { w.text(name, strconv.FormatInt(n, 10)) }
func (w *writer) truth(name string, b bool)   { w.text(name, strconv.FormatBool(b)) }

func (w *writer) time(name string, t overlay.Instant) {
	if t != 0 {
		w.text(name, t.Time().Format(time.RFC3339Nano))
	}
}

// Append writes the message behind b. It doesn't look whether all that its Op needs is set:
// Parse of what was written tells.
func (m Message) Append(b []byte) []byte {
	w := &writer{}
	w.WriteString(xml.Header + `<S:Envelope xmlns:S="` + nsSOAP + `" xmlns:h="` + nsHeaders + `" xmlns:t="` + nsTypes + `" xmlns:p="` + nsP2P + `">`)
	if m.Header != (Header{}) { // a fault may come without one
		w.in("S:Header", func() { w.in("h:nsiHeader", func() { w.header(m.Header) }) })
	}
	w.in("S:Body", func() {
		if m.Op == Fault {
			w.fault(m)
			return
		}
		w.in("t:"+string(m.Op), func() { w.body(m) })
	})
	w.end("S:Envelope")
	return append(b, w.Bytes()...)
}

func (w *writer) header(h Header) {
	w.text("protocolVersion", h.Protocol)
	w.text("correlationId", h.Correlation)
	w.text("requesterNSA", h.Requester)
	w.text("providerNSA", h.Provider)
	w.maybe("replyTo", h.ReplyTo)
}

func (w *writer) body(m Message) {
	switch shapes[m.Op] {
	case named:
		w.text("connectionId", m.Connection)
	case reserving:
		w.maybe("connectionId", m.Connection)
		w.maybe("globalReservationId", m.Global)
		w.maybe("description", m.Description)
		if m.Criteria != nil {
			w.criteria(*m.Criteria, m.Op == ReserveConfirmed)
		}
	case failed:
		w.text("connectionId", m.Connection)
		if m.States != nil {
			w.states(*m.States)
		}
		w.exception("serviceException", m.Exception)
	case erring:
		w.exception("serviceException", m.Exception)
	case querying, askNotices:
		w.query(m)
	case summary:
		for _, r := range m.Reservations {
			w.in("reservation", func() { w.reservation(r) })
		}
	case noticeList:
		for _, n := range m.Notices {
			w.in("t:"+string(n.Op), func() { w.notice(n) })
		}
	case notice:
		for _, n := range m.Notices[:min(1, len(m.Notices))] {
			w.notice(n)
		}
	}
}

func (w *writer) fault(m Message) {
	who, text := "S:Server", "refused"
	if m.Exception != nil {
		text = m.Exception.Text
	}
	w.in("S:Fault", func() {
		w.text("faultcode", who)
		w.text("faultstring", text)
		if m.Exception != nil && m.Exception.ID != "" {
			w.in("detail", func() { w.exception("t:serviceException", m.Exception) })
		}
	})
}

// criteria writes them; in full they have a schedule even if it says nothing.
func (w *writer) criteria(c Criteria, full bool) {
	if c.Version >= 0 {
		w.WriteString(`<criteria version="` + strconv.Itoa(c.Version) + `">`)
	} else {
		w.start("criteria")
	}
	if full || c.Start != 0 || c.End != 0 {
		w.in("schedule", func() {
			w.time("startTime", c.Start)
			w.time("endTime", c.End)
		})
	}
	if full {
		w.text("serviceType", c.ServiceType)
	} else {
		w.maybe("serviceType", c.ServiceType)
	}
	switch {
	case c.Source != "" || c.Dest != "":
		w.in("p:p2ps", func() { w.service(c) })
	case c.Capacity != 0:
		w.number("p:capacity", c.Capacity)
	}
	w.end("criteria")
}

func (w *writer) service(c Criteria) {
	w.number("capacity", c.Capacity)
	if c.Unidirectional {
		w.text("directionality", unidirectional)
	} else {
		w.text("directionality", bidirectional)
	}
	w.truth("symmetricPath", c.Symmetric)
	w.text("sourceSTP", c.Source)
	w.text("destSTP", c.Dest)
}

func (w *writer) states(s States) {
	w.in("connectionStates", func() {
		w.text("reservationState", s.Reservation)
		w.text("provisionState", s.Provision)
		w.text("lifecycleState", s.Lifecycle)
		w.plane(s.Plane)
	})
}

func (w *writer) plane(p Plane) {
	w.in("dataPlaneStatus", func() {
		w.truth("active", p.Active)
		w.number("version", int64(p.Version))
		w.truth("versionConsistent", p.Consistent)
	})
}

func (w *writer) exception(name string, e *Exception) {
	if e == nil {
		return
	}
	w.in(name, func() {
		w.text("nsaId", e.NSA)
		w.maybe("connectionId", e.Connection)
		w.maybe("serviceType", e.ServiceType)
		w.text("errorId", e.ID)
		w.text("text", e.Text)
		for i := range e.Children {
			w.exception("childException", &e.Children[i])
		}
	})
}

func (w *writer) query(m Message) {
	q := m.Query
	if q == nil {
		q = &Query{}
	}
	if m.Op == QueryNotificationSync {
		w.text("connectionId", m.Connection)
		if q.From != 0 || q.To != 0 {
			w.number("startNotificationId", q.From)
			w.number("endNotificationId", q.To)
		}
		return
	}
	for _, c := range q.Connections {
		w.text("connectionId", c)
	}
	if len(q.Connections) > 0 {
		return // the schema lets one choose
	}
	for _, g := range q.Globals {
		w.text("globalReservationId", g)
	}
}

func (w *writer) reservation(r Reservation) {
	w.text("connectionId", r.Connection)
	w.maybe("globalReservationId", r.Global)
	w.maybe("description", r.Description)
	for _, c := range r.Criteria {
		w.criteria(c, true)
	}
	w.text("requesterNSA", r.Requester)
	w.states(r.States)
	w.number("notificationId", r.Notice)
}

func (w *writer) notice(n Notice) {
	w.text("connectionId", n.Connection)
	w.number("notificationId", n.ID)
	w.time("timeStamp", n.At)
	switch n.Op {
	case DataPlaneStateChange:
		w.plane(n.Plane)
	case ErrorEvent:
		w.text("event", n.Event)
		w.text("originatingConnectionId", n.Origin)
		w.text("originatingNSA", n.OriginNSA)
		w.exception("serviceException", n.Exception)
	case ReserveTimeout:
		w.number("timeoutValue", int64(n.Timeout))
		w.text("originatingConnectionId", n.Origin)
		w.text("originatingNSA", n.OriginNSA)
	case MessageDeliveryTimeout:
		w.text("correlationId", n.Correlation)
	}
}
