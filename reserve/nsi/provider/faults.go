package provider

import (
	"fmt"
	"slices"
	"strings"
)

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

// FaultNames are the faults' names in texts, in the order above.
var FaultNames = []string{
	"plane-down", "no-admission", "held-for-ever", "poisoned-by-past", "no-modify", "terminate-once",
	"events-first", "other-criteria", "keeps-created", "dead-domain", "no-sync",
}

// at returns the fault of a name, or nil.
func (f *Faults) at(name string) *bool {
	all := []*bool{
		&f.PlaneDown, &f.NoAdmission, &f.HeldForEver, &f.PoisonedByPast, &f.NoModify, &f.TerminateOnce,
		&f.EventsFirst, &f.OtherCriteria, &f.KeepsCreated, &f.DeadDomain, &f.NoSync,
	}
	if i := slices.Index(FaultNames, name); i >= 0 {
		return all[i]
	}
	return nil
}

// Set switches the fault of a name on or off.
func (f *Faults) Set(name string, on bool) error {
	fault := f.at(name)
	if fault == nil {
		return fmt.Errorf("there is no fault %q, but %s", name, strings.Join(FaultNames, ", "))
	}
	*fault = on
	return nil
}

// On returns the names of the faults that are switched on.
func (f Faults) On() []string {
	return slices.DeleteFunc(slices.Clone(FaultNames), func(name string) bool { return !*f.at(name) })
}
