package overlay

import "encoding/binary"

// A TrainVerb says what a Train item is for. The values are on the wire.
type TrainVerb uint8

// The verbs, in the order in which they are said. Unknown ones are counted and
// skipped.
const (
	_           TrainVerb = iota
	TrainAsk              // may a train of Cars cars run into you?
	TrainGrant            // it may, at once; or ask again after Wait milliseconds
	TrainCar              // car Number, which left at Sent
	TrainEnd              // the last car has left: what came?
	TrainReport           // this came
)

// A Train is an item of the talk about a train: a run of datagrams that one agent
// sends to another at known times, to find out what the path between them carries.
// What a verb doesn't use is zero.
//
//	0      verb
//	1–4    ID of the train, chosen by the sender of its cars
//	5–6    ask: cars                     report: how many came
//	7–8    ask: bytes of each IP packet  report: windows that count
//	car:
//	5–6    number
//	7–14   when it was sent, nanoseconds of its sender's clock
//	grant:
//	5–8    milliseconds to wait, 0: go
//	report, rates in bits of IP packets a second:
//	9–16   rate at which the cars came    17–24, 25–32  its 95 % interval
//	33–40  rate at which they were sent   41–44  bytes that passed before
//	45     1: they queued on the way, 2: they came as among others' packets
type Train struct {
	Verb         TrainVerb
	ID           uint32
	Cars, Number uint16
	Size         uint16
	Wait         uint32
	Sent         Instant

	Windows             uint16
	Rate, Low, High, In int64
	Burst               uint32
	Queued, Shared      bool
}

// Lengths of a Train item's content, by verb.
const (
	trainLen       = 5 // of an end
	trainAskLen    = trainLen + 4
	trainCarLen    = trainLen + 10
	trainReportLen = 46
)

// Flags of a report.
const (
	trainQueued = 1 << iota
	trainShared
)

// AppendTrain appends an item of a train to body b.
func AppendTrain(b []byte, t Train) []byte {
	start := len(b)
	b = append(b, itemTrain, 0, 0, byte(t.Verb))
	b = binary.BigEndian.AppendUint32(b, t.ID)
	switch t.Verb {
	case TrainAsk:
		b = binary.BigEndian.AppendUint16(b, t.Cars)
		b = binary.BigEndian.AppendUint16(b, t.Size)
	case TrainGrant:
		b = binary.BigEndian.AppendUint32(b, t.Wait)
	case TrainCar:
		b = binary.BigEndian.AppendUint16(b, t.Number)
		b = binary.BigEndian.AppendUint64(b, uint64(t.Sent))
	case TrainReport:
		b = binary.BigEndian.AppendUint16(b, t.Cars)
		b = binary.BigEndian.AppendUint16(b, t.Windows)
		for _, rate := range [...]int64{t.Rate, t.Low, t.High, t.In} {
			b = binary.BigEndian.AppendUint64(b, uint64(rate))
		}
		b = binary.BigEndian.AppendUint32(b, t.Burst)
		flags := byte(0)
		if t.Queued {
			flags |= trainQueued
		}
		if t.Shared {
			flags |= trainShared
		}
		b = append(b, flags)
	}
	binary.BigEndian.PutUint16(b[start+1:], uint16(len(b)-start-itemHeaderLen))
	return b
}

// ParseCar reads the car that body, of a datagram of KindTrain, starts with.
func ParseCar(body []byte) (car Train, ok bool) {
	if len(body) < itemHeaderLen+trainCarLen || body[0] != itemTrain {
		return Train{}, false
	}
	car, known, ok := parseTrain(body[itemHeaderLen:][:min(int(binary.BigEndian.Uint16(body[1:])), len(body)-itemHeaderLen)])
	return car, known && ok && car.Verb == TrainCar
}

// parseTrain reads what AppendTrain wrote; unknown verbs are told from what is too
// short.
func parseTrain(c []byte) (t Train, known, ok bool) {
	if len(c) < trainLen {
		return Train{}, true, false
	}
	t.Verb, t.ID = TrainVerb(c[0]), binary.BigEndian.Uint32(c[1:])
	long := func(n int) bool { ok = len(c) >= n; return ok }
	switch t.Verb {
	case TrainAsk:
		if long(trainAskLen) {
			t.Cars, t.Size = binary.BigEndian.Uint16(c[5:]), binary.BigEndian.Uint16(c[7:])
		}
	case TrainGrant:
		if long(trainAskLen) {
			t.Wait = binary.BigEndian.Uint32(c[5:])
		}
	case TrainCar:
		if long(trainCarLen) {
			t.Number, t.Sent = binary.BigEndian.Uint16(c[5:]), Instant(binary.BigEndian.Uint64(c[7:]))
		}
	case TrainEnd:
		ok = true
	case TrainReport:
		if long(trainReportLen) {
			t.Cars, t.Windows = binary.BigEndian.Uint16(c[5:]), binary.BigEndian.Uint16(c[7:])
			for i, rate := range [...]*int64{&t.Rate, &t.Low, &t.High, &t.In} {
				*rate = int64(binary.BigEndian.Uint64(c[9+8*i:]))
			}
			t.Burst = binary.BigEndian.Uint32(c[41:])
			t.Queued, t.Shared = c[45]&trainQueued != 0, c[45]&trainShared != 0
		}
	default:
		return t, false, true
	}
	return t, true, ok
}
