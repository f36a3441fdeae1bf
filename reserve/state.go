package reserve

// A State is where a reservation, or one segment of it, stands.
//
//	Requested → Held → Committed → Activating → Active ⇄ Degraded → Releasing → Released
//
// From the first three Rejected ends it, from the others Lost does; Unknown is left by asking
// and Orphan by releasing, or at the grant's end at the latest.
type State uint8

// The states; their words are those of farlan reserve list.
const (
	Requested State = iota
	Held
	Committed
	Activating
	Active
	Degraded
	Releasing
	Released
	Rejected
	Lost
	Unknown // a call's outcome isn't known: it is asked, never guessed
	Orphan  // a release wasn't confirmed: it is tried again, shown, and gone at its end
)

var stateNames = [...]string{"requested", "held", "committed", "activating", "active", "degraded", "releasing", "released", "rejected", "lost", "unknown", "orphan"}

// String returns the state's word.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "state?"
}

// Over says that nothing can be left of what is in the state.
func (s State) Over() bool { return s == Released || s == Rejected || s == Lost }

var kindNames = [...]string{"none", "circuit", "guarantee", "priority"}

// String returns the kind's word.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind?"
}
