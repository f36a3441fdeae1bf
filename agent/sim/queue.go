package sim

import "farlan/overlay"

// What happens to an agent.
type what uint8

const (
	arrives  what = iota // a message of a control connection
	ticks                // its cores want to be called
	steers               // it looks after its connections, once a second
	dials                // a connection that another agent opens reaches it
	requests             // a datagram with a request for a link
	frames               // a frame of its own, or to pass on
	decides              // its epoch begins
	starts               // it begins to run
	lies                 // it tells lies
	flows                // a second of data
	talks                // an epoch of talk between agents
	strikes              // a fault begins or ends
)

// An event happens to an agent at an instant of true time.
type event struct {
	at     overlay.Instant
	number uint64 // events of one instant happen in this order
	what   what
	to     int32
	from   int32
	id     uint64 // of the connection, of the agent's life, or of the fault
	msg    []byte
}

func (e *event) before(f *event) bool {
	return e.at < f.at || e.at == f.at && e.number < f.number
}

// A queue holds events, the earliest first: a binary heap.
type queue []event

func (q *queue) push(e event) {
	*q = append(*q, e)
	s := *q
	i := len(s) - 1
	for i > 0 && e.before(&s[(i-1)/2]) {
		s[i] = s[(i-1)/2]
		i = (i - 1) / 2
	}
	s[i] = e
}

func (q *queue) pop() event {
	s := *q
	first, last := s[0], s[len(s)-1]
	s[len(s)-1] = event{}
	s = s[:len(s)-1]
	*q = s
	for i := 0; len(s) > 0; {
		child := 2*i + 1
		if child+1 < len(s) && s[child+1].before(&s[child]) {
			child++
		}
		if child >= len(s) || !s[child].before(&last) {
			s[i] = last
			break
		}
		s[i] = s[child]
		i = child
	}
	return first
}
