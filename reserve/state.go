package reserve

import "slices"

// A State is where a reservation, or one segment of it, stands.
//
//	Requested → Held → Committed → Activating → Active ⇄ Degraded → Releasing → Released
//
// What is refused before it is firm ends Rejected, what was there and isn't any more Lost, and
// from any state that isn't over it may be Releasing; Unknown is left by asking and Orphan by
// releasing, or at the grant's end at the latest.
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

// moves says which states may follow which; any may be where one was Unknown, and none where it
// is over. What is aborted before it was ever firm is Rejected in the end, after Releasing.
var moves = [...][]State{
	Requested:  {Held, Rejected, Unknown, Releasing, Released},
	Held:       {Committed, Rejected, Lost, Unknown, Releasing},
	Committed:  {Activating, Rejected, Lost, Unknown, Releasing},
	Activating: {Active, Lost, Unknown, Releasing},
	Active:     {Degraded, Lost, Unknown, Releasing},
	Degraded:   {Active, Lost, Unknown, Releasing},
	Releasing:  {Released, Rejected, Lost, Orphan},
	Orphan:     {Released, Rejected, Lost},
	Unknown:    {Held, Committed, Activating, Active, Degraded, Releasing, Released, Rejected, Lost},
	Released:   nil,
	Rejected:   nil,
	Lost:       nil,
}

// May says whether to may follow s.
func (s State) May(to State) bool { return int(s) < len(moves) && slices.Contains(moves[s], to) }

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
