package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"

	"farlan/discovery"
)

func TestHours(t *testing.T) {
	for at, want := range map[string][]int64{
		"1970-01-02T00:00:00Z": {24, 23},
		"1970-01-02T00:54:59Z": {24, 23},
		"1970-01-02T00:55:00Z": {24, 23, 25},
		"1970-01-02T01:00:00Z": {25, 24},
	} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := hours(now); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", at, got, want)
		}
	}
}

// Searches follow each other fast while others are expected, and then rarely, most
// rarely at those who don't serve; servers stay under the rendezvous where others look.
func TestSearchGap(t *testing.T) {
	for _, c := range []struct {
		eager, gap            time.Duration
		told, settled, server bool
		want                  time.Duration
	}{
		{0, searchFirst, true, false, false, searchFirst},
		{29 * time.Second, searchMost, true, false, true, searchMost},
		{29 * time.Second, searchMost, true, true, true, searchByServer},
		{30 * time.Second, searchMost, true, false, true, searchByServer},
		{30 * time.Second, searchMost, true, true, false, searchByClient},
		{time.Second, searchFirst, false, true, false, searchFirst},
		{time.Hour, searchMost, false, true, true, searchMost},
	} {
		if got := searchGap(c.eager, c.gap, c.told, c.settled, c.server); got != c.want {
			t.Errorf("after %v: %v, want %v", c.eager, got, c.want)
		}
	}
	if searchByServer+searchTimeout > time.Hour {
		t.Error("a server may be under neither this hour's rendezvous nor the last one's")
	}
}

func TestBounded(t *testing.T) {
	b, ctx := &bounded{MapDatastore: ds.NewMapDatastore()}, context.Background()
	key := func(i int) ds.Key { return ds.NewKey(fmt.Sprint(i)) }
	for i := range maxProvided {
		if err := b.Put(ctx, key(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Put(ctx, key(-1), nil); !errors.Is(err, errFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := errors.Join(b.Put(ctx, key(0), []byte{1}), b.Delete(ctx, key(1)), b.Delete(ctx, key(1)), b.Put(ctx, key(-1), nil)); err != nil {
		t.Error(err)
	}
	batch, err := b.Batch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(batch.Put(ctx, key(-2), nil), batch.Commit(ctx)); !errors.Is(err, errFull) {
		t.Errorf("one too many by a batch: %v", err)
	}
}

func TestOutbox(t *testing.T) {
	o := newOutbox()
	for i := range outboxMessages + 3 {
		if dropped := o.push([]byte{byte(i)}); dropped != uint64(i/outboxMessages) {
			t.Errorf("message %d drops %d", i, dropped)
		}
	}
	if got := o.pop(); got[0] != 3 {
		t.Errorf("oldest is %d, want 3", got[0])
	}
	for range outboxBytes / discovery.MaxMessage {
		o.push(make([]byte, discovery.MaxMessage))
	}
	if o.bytes > outboxBytes || len(o.msgs) != outboxBytes/discovery.MaxMessage {
		t.Errorf("%d messages of %d bytes", len(o.msgs), o.bytes)
	}
	for o.pop() != nil {
	}
	if o.bytes != 0 {
		t.Errorf("an empty outbox has %d bytes", o.bytes)
	}
}

func TestRead(t *testing.T) {
	var got []string
	in := "\x00\x00\x00\x02hi\x00\x00\x00\x01!\x00\x01\x00\x01x"
	err := read(strings.NewReader(in), func(msg []byte) { got = append(got, string(msg)) })
	if !slices.Equal(got, []string{"hi", "!"}) || err == nil || !strings.Contains(err.Error(), "65537 bytes") {
		t.Errorf("read %q, %v", got, err)
	}
}
