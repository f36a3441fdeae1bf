package overlay

import (
	"slices"
	"testing"
)

// What is said about trains arrives as it was said, and no verb takes what is too
// short for it.
func TestTrainItems(t *testing.T) {
	all := []Train{
		{Verb: TrainAsk, ID: 7, Cars: 1600, Size: 1500},
		{Verb: TrainGrant, ID: 7, Wait: 1 << 20},
		{Verb: TrainCar, ID: 1<<32 - 1, Number: 1599, Sent: 1 << 62},
		{Verb: TrainEnd, ID: 9},
		{Verb: TrainReport, ID: 9, Cars: 3, Windows: 5, Rate: 1e9, Low: -1, High: 1 << 62, In: 2e9, Burst: 65536, Queued: true},
		{Verb: TrainReport, ID: 9, Rate: 1, Shared: true},
	}
	for _, want := range all {
		var u Unpacker
		var got sink
		b := AppendTrain(nil, want)
		u.Unpack(b, &got)
		if !slices.Equal(got.trains, []Train{want}) || u.Malformed+u.Unknown != 0 {
			t.Errorf("%+v became %+v", want, got.trains)
		}
		for n := itemHeaderLen; n < len(b); n++ {
			short := slices.Clone(b[:n])
			short[1], short[2] = 0, byte(n-itemHeaderLen)
			u, got = Unpacker{}, sink{}
			if u.Unpack(short, &got); len(got.trains) != 0 || u.Malformed != 1 {
				t.Errorf("%v of %d bytes was taken", want.Verb, n)
			}
		}
	}
	var u Unpacker
	var got sink
	if u.Unpack(AppendTrain(nil, Train{Verb: 77}), &got); len(got.trains) != 0 || u.Unknown != 1 {
		t.Error("an unknown verb isn't counted")
	}
}

func FuzzTrain(f *testing.F) {
	f.Add(AppendTrain(nil, Train{Verb: TrainReport, Cars: 3, Rate: 1e9, Queued: true}))
	f.Add(AppendTrain(nil, Train{Verb: TrainCar, Number: 3, Sent: 1e9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var u Unpacker
		var got, again sink
		u.Unpack(b, &got)
		for _, train := range got.trains {
			u.Unpack(AppendTrain(nil, train), &again)
		}
		if !slices.Equal(got.trains, again.trains) {
			t.Errorf("%+v became %+v", got.trains, again.trains)
		}
	})
}
