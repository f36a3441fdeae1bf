package cs

import (
	"encoding/xml"
	"math"
	"regexp"
	"strconv"
	"time"

	"farlan/overlay"
)

const (
	bidirectional  = "Bidirectional"
	unidirectional = "Unidirectional"

	maxName  = 512 // bytes of a name that is kept: identifiers, descriptions, STPs
	maxQuery = 1024
)

var correlation = regexp.MustCompile(`^urn:uuid:[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}$`)

// A reader takes values out of nodes and keeps the first thing that was wrong.
type reader struct{ err error }

func (r *reader) wrong(format string, a ...any) {
	if r.err == nil {
		r.err = wrong(format, a...)
	}
}

// one returns the element of that name, or nil if there is none; two are wrong.
func (r *reader) one(n *node, space, local string) *node {
	found := n.all(space, local)
	switch len(found) {
	case 0:
		return nil
	case 1:
		return found[0]
	}
	r.wrong("%s has %d of %s", n.name.Local, len(found), local)
	return nil
}

// must is one, and none is wrong, too; it never returns nil.
func (r *reader) must(n *node, space, local string) *node {
	if k := r.one(n, space, local); k != nil {
		return k
	}
	r.wrong("%s has no %s", n.name.Local, local)
	return &node{}
}

// maybe returns the text of the element of that name, "" if there is none.
func (r *reader) maybe(n *node, local string) string {
	if k := r.one(n, "", local); k != nil {
		return r.short(k)
	}
	return ""
}

// text is maybe for what must be there and not be empty.
func (r *reader) text(n *node, local string) string {
	s := r.short(r.must(n, "", local))
	if s == "" {
		r.wrong("%s has an empty %s", n.name.Local, local)
	}
	return s
}

func (r *reader) short(n *node) string {
	if len(n.text) > maxName {
		r.wrong("%s has %d bytes", n.name.Local, len(n.text))
		return ""
	}
	return n.text
}

func (r *reader) number(text string, most int64) int64 {
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 || v > most {
		r.wrong("%.40q isn't a number up to %d", text, most)
		return 0
	}
	return v
}

func (r *reader) truth(n *node, local string) bool {
	switch s := r.text(n, local); s {
	case "true", "1":
		return true
	case "false", "0":
		return false
	default:
		r.wrong("%s isn't a truth: %.40q", local, s)
		return false
	}
}

// time reads a time; what is absent, empty or nil is 0.
func (r *reader) time(n *node, local string) overlay.Instant {
	k := r.one(n, "", local)
	if k == nil || k.text == "" {
		return 0
	}
	t, err := time.Parse(time.RFC3339Nano, k.text)
	if err != nil || t.Year() < 1970 || t.Year() > 2261 || t.Unix() < 0 {
		r.wrong("%s isn't a time: %.40q", local, k.text)
		return 0
	}
	return overlay.Instant(t.UnixNano())
}

// Parse reads a message. All errors wrap ErrMessage.
func Parse(b []byte) (Message, error) {
	root, err := tree(b)
	if err != nil {
		return Message{}, err
	}
	if root.name != (xml.Name{Space: nsSOAP, Local: "Envelope"}) {
		return Message{}, wrong("a document of %.60q", root.name.Local)
	}
	r := &reader{}
	body := r.must(root, nsSOAP, "Body")
	var m Message
	var inner *node
	for _, k := range body.kids {
		op := Op(k.name.Local)
		known := k.name.Space == nsTypes && op != Fault || k.name.Space == nsSOAP && op == Fault
		if shapes[op] == 0 || !known || inner != nil {
			return Message{}, wrong("a body with %.60q", k.name.Local)
		}
		m.Op, inner = op, k
	}
	if inner == nil {
		return Message{}, wrong("an empty body")
	}
	r.header(root, &m)
	r.body(inner, &m)
	if r.err != nil {
		return Message{}, r.err
	}
	return m, nil
}

// header reads it; SOAP's faults may come without one.
func (r *reader) header(root *node, m *Message) {
	h := r.one(root, nsSOAP, "Header")
	if h != nil {
		h = r.one(h, nsHeaders, "nsiHeader")
	}
	if h == nil {
		if m.Op != Fault {
			r.wrong("%s without an nsiHeader", m.Op)
		}
		return
	}
	m.Header = Header{
		Protocol: r.text(h, "protocolVersion"), Correlation: r.text(h, "correlationId"),
		Requester: r.text(h, "requesterNSA"), Provider: r.text(h, "providerNSA"), ReplyTo: r.maybe(h, "replyTo"),
	}
	if !correlation.MatchString(m.Correlation) {
		r.wrong("a correlationId %.60q", m.Correlation)
	}
}

func (r *reader) body(n *node, m *Message) {
	switch shapes[m.Op] {
	case named:
		m.Connection = r.text(n, "connectionId")
	case reserving:
		r.reserving(n, m)
	case failed:
		m.Connection = r.text(n, "connectionId")
		s := r.states(r.must(n, "", "connectionStates"))
		m.States = &s
		m.Exception = r.exception(r.must(n, "", "serviceException"))
	case erring:
		m.Exception = r.exception(r.must(n, "", "serviceException"))
	case querying:
		m.Query = &Query{Connections: r.names(n, "connectionId"), Globals: r.names(n, "globalReservationId")}
		if len(m.Query.Connections) > 0 && len(m.Query.Globals) > 0 {
			r.wrong("a query by both names")
		}
	case askNotices:
		m.Connection = r.text(n, "connectionId")
		m.Query = &Query{From: r.maybeNumber(n, "startNotificationId"), To: r.maybeNumber(n, "endNotificationId")}
	case summary:
		for _, k := range n.all("", "reservation") {
			m.Reservations = append(m.Reservations, r.reservation(k))
		}
	case noticeList:
		for _, k := range n.kids {
			if op := Op(k.name.Local); k.name.Space == nsTypes && shapes[op] == notice {
				m.Notices = append(m.Notices, r.notice(k, op))
			}
		}
	case notice:
		m.Notices = []Notice{r.notice(n, m.Op)}
		m.Connection = m.Notices[0].Connection
	case fault:
		r.fault(n, m)
	}
}

func (r *reader) maybeNumber(n *node, local string) int64 {
	if s := r.maybe(n, local); s != "" {
		return r.number(s, math.MaxInt64)
	}
	return 0
}

func (r *reader) names(n *node, local string) []string {
	found := n.all("", local)
	if len(found) > maxQuery {
		r.wrong("a query for %d", len(found))
		return nil
	}
	var names []string
	for _, k := range found {
		if s := r.short(k); s != "" {
			names = append(names, s)
		}
	}
	return names
}

func (r *reader) reserving(n *node, m *Message) {
	m.Connection = r.maybe(n, "connectionId")
	m.Global, m.Description = r.maybe(n, "globalReservationId"), r.maybe(n, "description")
	c := r.criteria(r.must(n, "", "criteria"))
	m.Criteria = &c
	if m.Op == ReserveConfirmed && m.Connection == "" {
		r.wrong("%s without a connectionId", m.Op)
	}
}

func (r *reader) criteria(n *node) Criteria {
	c := Criteria{Version: -1, ServiceType: r.maybe(n, "serviceType")}
	for _, a := range n.attrs {
		if a.Name.Space == "" && a.Name.Local == "version" {
			c.Version = int(r.number(a.Value, math.MaxInt32))
		}
	}
	if s := r.one(n, "", "schedule"); s != nil {
		c.Start, c.End = r.time(s, "startTime"), r.time(s, "endTime")
	}
	service, alone := r.one(n, nsP2P, "p2ps"), r.one(n, nsP2P, "capacity")
	switch {
	case service != nil:
		r.service(service, &c)
	case alone != nil:
		c.Capacity = r.number(alone.text, math.MaxInt32)
	}
	return c
}

func (r *reader) service(n *node, c *Criteria) {
	c.Capacity = r.number(r.text(n, "capacity"), math.MaxInt32)
	c.Source, c.Dest = r.text(n, "sourceSTP"), r.text(n, "destSTP")
	switch d := r.maybe(n, "directionality"); d {
	case unidirectional:
		c.Unidirectional = true
	case bidirectional, "":
	default:
		r.wrong("directionality %.40q", d)
	}
	if r.one(n, "", "symmetricPath") != nil {
		c.Symmetric = r.truth(n, "symmetricPath")
	}
}

func (r *reader) states(n *node) States {
	return States{
		Reservation: r.text(n, "reservationState"), Provision: r.text(n, "provisionState"),
		Lifecycle: r.text(n, "lifecycleState"), Plane: r.plane(r.must(n, "", "dataPlaneStatus")),
	}
}

func (r *reader) plane(n *node) Plane {
	return Plane{
		Active: r.truth(n, "active"), Version: int(r.number(r.text(n, "version"), math.MaxInt32)),
		Consistent: r.truth(n, "versionConsistent"),
	}
}

// exception reads one; the tree's depth bounds the recursion.
func (r *reader) exception(n *node) *Exception {
	e := &Exception{
		NSA: r.maybe(n, "nsaId"), Connection: r.maybe(n, "connectionId"), ServiceType: r.maybe(n, "serviceType"),
		ID: r.text(n, "errorId"),
	}
	if k := r.one(n, "", "text"); k != nil {
		e.Text = k.text // the longest texts are stack traces
	}
	for _, k := range n.all("", "childException") {
		e.Children = append(e.Children, *r.exception(k))
	}
	return e
}

func (r *reader) reservation(n *node) Reservation {
	v := Reservation{
		Connection: r.text(n, "connectionId"), Global: r.maybe(n, "globalReservationId"),
		Requester: r.text(n, "requesterNSA"), Notice: r.maybeNumber(n, "notificationId"),
		States: r.states(r.must(n, "", "connectionStates")),
	}
	if k := r.one(n, "", "description"); k != nil {
		v.Description = k.text // somebody else's may be long
	}
	for _, k := range n.all("", "criteria") {
		v.Criteria = append(v.Criteria, r.criteria(k))
	}
	return v
}

func (r *reader) notice(n *node, op Op) Notice {
	v := Notice{
		Op: op, Connection: r.text(n, "connectionId"),
		ID: r.number(r.text(n, "notificationId"), math.MaxInt64), At: r.time(n, "timeStamp"),
	}
	switch op {
	case DataPlaneStateChange:
		v.Plane = r.plane(r.must(n, "", "dataPlaneStatus"))
	case ErrorEvent:
		v.Event, v.Origin, v.OriginNSA = r.text(n, "event"), r.maybe(n, "originatingConnectionId"), r.maybe(n, "originatingNSA")
		if k := r.one(n, "", "serviceException"); k != nil {
			v.Exception = r.exception(k)
		}
	case ReserveTimeout:
		v.Timeout = int(r.number(r.text(n, "timeoutValue"), math.MaxInt32))
		v.Origin, v.OriginNSA = r.maybe(n, "originatingConnectionId"), r.maybe(n, "originatingNSA")
	case MessageDeliveryTimeout:
		v.Correlation = r.text(n, "correlationId")
	}
	return v
}

// fault reads SOAP's own; without NSI's exception in it the faultstring is all that is known.
func (r *reader) fault(n *node, m *Message) {
	text := ""
	if k := r.one(n, "", "faultstring"); k != nil {
		text = k.text
	}
	if d := r.one(n, "", "detail"); d != nil {
		for _, k := range d.kids {
			if k.name.Local == "serviceException" && m.Exception == nil {
				m.Exception = r.exception(k)
			}
		}
	}
	if m.Exception == nil {
		m.Exception = &Exception{Text: text}
	}
}
