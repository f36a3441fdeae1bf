package provider

// Faults are what providers in the field do wrong; each was seen in a real one. They can be
// switched one by one, in any combination, at any time.
type Faults struct {
	// PlaneDown: a provision is confirmed though the data plane stays down; only a
	// dataPlaneStateChange tells.
	PlaneDown bool
	// NoAdmission: more is granted than the port carries.
	NoAdmission bool
	// HeldForEver: what isn't committed in time is given back, but nobody is told, queries go on
	// saying ReserveHeld, and a late commit is a fault.
	HeldForEver bool
	// PoisonedByPast: a reserve whose end is in the past gets no answer, nor does any later one
	// until the provider is started again.
	PoisonedByPast bool
	// NoModify: a reserve for a connection that exists is a fault.
	NoModify bool
	// TerminateOnce: a second terminate is acknowledged and never confirmed, and a query by
	// globalReservationId is an internal error.
	TerminateOnce bool
	// EventsFirst: what a request causes is told before the request is acknowledged.
	EventsFirst bool
	// OtherCriteria: a VLAN is confirmed that wasn't asked for.
	OtherCriteria bool
	// KeepsCreated: the lifecycle stays Created after the end, though all is given back.
	KeepsCreated bool
	// DeadDomain: a domain below doesn't answer any more: releases and terminations are
	// acknowledged and stick; what they were for goes at its end.
	DeadDomain bool
	// NoSync: queries are answered later only. It isn't wrong, but rare.
	NoSync bool
}
