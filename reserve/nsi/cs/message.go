// Package cs has the messages of the Open Grid Forum's Network Service Interface, Connection
// Service 2.1 (GFD.237), as requesters and providers of point-to-point Ethernet circuits write
// them: SOAP 1.1 envelopes after the schemas of December 2013. It is pure.
//
// What comes from outside is read under limits and by name: elements that aren't known are
// passed over, those that are known must be there once and be well formed, or the message is an
// error. Their order isn't looked at: a schema's sequence is for those who write.
package cs

import "farlan/overlay"

// An Op is what a message is: the name of the element in its body.
type Op string

// What requesters ask.
const (
	Reserve               Op = "reserve"
	ReserveCommit         Op = "reserveCommit"
	ReserveAbort          Op = "reserveAbort"
	Provision             Op = "provision"
	Release               Op = "release"
	Terminate             Op = "terminate"
	QuerySummary          Op = "querySummary"
	QuerySummarySync      Op = "querySummarySync"
	QueryNotificationSync Op = "queryNotificationSync"
)

// What is answered at once, in the same exchange.
const (
	ReserveResponse                Op = "reserveResponse"
	Acknowledgment                 Op = "acknowledgment"
	QuerySummarySyncConfirmed      Op = "querySummarySyncConfirmed"
	QueryNotificationSyncConfirmed Op = "queryNotificationSyncConfirmed"
	Fault                          Op = "Fault"
)

// What providers send to replyTo when they have come to an end with something; the requester
// acknowledges it.
const (
	ReserveConfirmed       Op = "reserveConfirmed"
	ReserveFailed          Op = "reserveFailed"
	ReserveCommitConfirmed Op = "reserveCommitConfirmed"
	ReserveCommitFailed    Op = "reserveCommitFailed"
	ReserveAbortConfirmed  Op = "reserveAbortConfirmed"
	ProvisionConfirmed     Op = "provisionConfirmed"
	ReleaseConfirmed       Op = "releaseConfirmed"
	TerminateConfirmed     Op = "terminateConfirmed"
	QuerySummaryConfirmed  Op = "querySummaryConfirmed"
	Error                  Op = "error"
)

// What providers send there unasked.
const (
	ErrorEvent             Op = "errorEvent"
	ReserveTimeout         Op = "reserveTimeout"
	DataPlaneStateChange   Op = "dataPlaneStateChange"
	MessageDeliveryTimeout Op = "messageDeliveryTimeout"
)

// A shape is what the body's element is made of.
type shape uint8

const (
	_          shape = iota
	empty            // nothing
	named            // a connectionId
	reserving        // ReserveType, ReserveConfirmedType
	failed           // GenericFailedType
	erring           // GenericErrorType
	querying         // QueryType
	summary          // QuerySummaryConfirmedType
	askNotices       // QueryNotificationType
	noticeList       // QueryNotificationConfirmedType
	notice           // NotificationBaseType and what extends it
	fault            // SOAP's own
)

var shapes = map[Op]shape{
	Reserve: reserving, ReserveConfirmed: reserving,
	ReserveCommit: named, ReserveAbort: named, Provision: named, Release: named, Terminate: named,
	ReserveResponse: named, ReserveCommitConfirmed: named, ReserveAbortConfirmed: named,
	ProvisionConfirmed: named, ReleaseConfirmed: named, TerminateConfirmed: named,
	Acknowledgment: empty,
	ReserveFailed:  failed, ReserveCommitFailed: failed, Error: erring, Fault: fault,
	QuerySummary: querying, QuerySummarySync: querying,
	QuerySummaryConfirmed: summary, QuerySummarySyncConfirmed: summary,
	QueryNotificationSync: askNotices, QueryNotificationSyncConfirmed: noticeList,
	ErrorEvent: notice, ReserveTimeout: notice, DataPlaneStateChange: notice, MessageDeliveryTimeout: notice,
}

// The protocolVersion of messages that requesters start, and of those that providers start.
const (
	ToProvider  = "application/vnd.ogf.nsi.cs.v2.provider+soap"
	ToRequester = "application/vnd.ogf.nsi.cs.v2.requester+soap"
)

// A Header goes with every message.
type Header struct {
	Protocol    string // ToProvider or ToRequester
	Correlation string // urn:uuid:…, drawn by who asks, repeated in all that answers it
	Requester   string // NSA identifiers: urn:ogf:network:…:nsa
	Provider    string
	ReplyTo     string // where the requester takes answers; only in requests
}

// A Message is any of them. Which of the fields after Op are meant follows from the Op, as the
// schema has it; the others are zero.
type Message struct {
	Header
	Op           Op
	Connection   string // the provider's name of a reservation
	Global       string // globalReservationId, the requester's own: urn:uuid:…
	Description  string
	Criteria     *Criteria
	States       *States
	Exception    *Exception
	Query        *Query
	Reservations []Reservation
	Notices      []Notice // one in what is sent unasked
}

// Criteria say what is reserved. In a modification only what changes is set.
type Criteria struct {
	Version     int             // -1 if there is none
	Start       overlay.Instant // 0: now, or as it is
	End         overlay.Instant // 0: never, or as it is
	ServiceType string
	// Capacity is in megabits a second, as the service type EVTS.A-GOLE counts; 0 if it doesn't
	// change. Without Source and Dest it stands alone.
	Capacity       int64
	Unidirectional bool
	Symmetric      bool
	// Source and Dest are service termination points: a port's URN and a VLAN or several to
	// choose from, "urn:…:port?vlan=100-109".
	Source, Dest string
}

// States are where a reservation's four machines stand, by the schema's words.
type States struct {
	Reservation, Provision, Lifecycle string
	Plane                             Plane
}

// The states that somebody compares.
const (
	StateStart      = "ReserveStart"
	StateChecking   = "ReserveChecking"
	StateFailed     = "ReserveFailed"
	StateAborting   = "ReserveAborting"
	StateHeld       = "ReserveHeld"
	StateCommitting = "ReserveCommitting"
	StateTimeout    = "ReserveTimeout"

	StateReleased     = "Released"
	StateProvisioning = "Provisioning"
	StateProvisioned  = "Provisioned"
	StateReleasing    = "Releasing"

	StateCreated       = "Created"
	StateLifeFailed    = "Failed"
	StatePassedEndTime = "PassedEndTime"
	StateTerminating   = "Terminating"
	StateTerminated    = "Terminated"
)

// A Plane is a circuit's data plane: it carries frames if all domains say so, and mean the same
// version of its criteria.
type Plane struct {
	Active     bool
	Version    int
	Consistent bool
}

// Up says whether the whole circuit carries frames, by what the provider says.
func (p Plane) Up() bool { return p.Active && p.Consistent }

// An Exception says what failed where.
type Exception struct {
	NSA, Connection, ServiceType string
	ID                           string // five digits: the codes below
	Text                         string
	Children                     []Exception // those of the domains below
}

// Exceptions' identifiers.
const (
	PayloadError        = "00100"
	MissingParameter    = "00101"
	NotImplemented      = "00103"
	VersionNotSupported = "00104"
	InvalidTransition   = "00201"
	NoConnection        = "00203"
	Unauthorized        = "00302"
	InternalError       = "00500"
	Unavailable         = "00600"
	UnknownSTP          = "00701"
	STPUnavailable      = "00704"
	CapacityUnavailable = "00705"
)

// A Query asks for reservations by either of the names, or for all; or for the notices of one
// connection with numbers from From to To, both 0 for all.
type Query struct {
	Connections, Globals []string
	From, To             int64
}

// A Reservation is one of a summary.
type Reservation struct {
	Connection, Global, Description string
	Criteria                        []Criteria // none as long as nothing is committed, with some providers
	Requester                       string
	States                          States
	Notice                          int64 // the newest one's number
}

// A Notice is what a provider tells unasked.
type Notice struct {
	Op         Op
	Connection string
	ID         int64 // counted by connection, or always 0
	At         overlay.Instant
	Plane      Plane  // of a DataPlaneStateChange
	Event      string // of an ErrorEvent
	Timeout    int    // of a ReserveTimeout, seconds
	// Origin and OriginNSA are where an ErrorEvent or a ReserveTimeout comes from.
	Origin, OriginNSA string
	Exception         *Exception // of an ErrorEvent, or nil
	Correlation       string     // of a MessageDeliveryTimeout: the message that wasn't delivered
}

// What ErrorEvents tell of.
const (
	ActivateFailed   = "activateFailed"
	DeactivateFailed = "deactivateFailed"
	DataplaneError   = "dataplaneError"
	ForcedEnd        = "forcedEnd"
)

// Action returns the SOAPAction of a message, as the WSDL has it.
func Action(op Op) string {
	return `"http://schemas.ogf.org/nsi/2013/12/connection/service/` + string(op) + `"`
}

// Ops returns how many kinds of messages there are.
func Ops() int { return len(shapes) }
