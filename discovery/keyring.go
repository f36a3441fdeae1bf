package discovery

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"farlan/overlay"
)

// MaxKeys is how many keys a Keyring holds: the current one, the one that it
// replaced, and two of orders that lost against that which made it the current one.
// Of more the oldest are forgotten.
const MaxKeys = 4

// A Keyring holds the keys that an agent goes by: one that it speaks with, and
// while the network changes its key, old ones that it hears as well. It never
// changes: its methods return other ones. The zero Keyring is none.
//
// All agents that know of the same orders go by the same key, whatever order they
// heard of them in: of those that end the key that they come from, the first one
// counts. The next change can begin when the last one is over.
type Keyring struct {
	current Network
	old     []OldKey // the first is what current replaced
}

// An OldKey is good until a time in Unix seconds.
type OldKey struct {
	Key   NetworkKey
	Until int64
}

// NewKeyring returns the Keyring of a network and the old keys that are still good
// in it, in the order in which Old returned them.
func NewKeyring(current Network, old ...OldKey) Keyring {
	k := Keyring{current: current}
	for _, o := range old {
		if len(k.old) < MaxKeys-1 && !o.Key.IsZero() && !slices.Contains(k.raw(), o.Key) {
			k.old = append(k.old, o)
		}
	}
	return k
}

// Current returns the network by the key that the agent speaks with.
func (k Keyring) Current() Network { return k.current }

// Old returns the keys that are heard as well, the one that Current replaced first.
// The slice must not be changed.
func (k Keyring) Old() []OldKey { return k.old }

// Keys returns what all secrets of the network are derived from, the current one
// first; see Network.Root.
func (k Keyring) Keys() []NetworkKey {
	keys := make([]NetworkKey, 0, MaxKeys)
	for _, raw := range k.raw() {
		keys = append(keys, NewNetwork(raw, k.current.admin).Root())
	}
	return keys
}

func (k Keyring) raw() []NetworkKey {
	keys := append(make([]NetworkKey, 0, MaxKeys), k.current.key)
	for _, o := range k.old {
		keys = append(keys, o.Key)
	}
	return keys
}

// From returns the network that Current replaced, and when that is over; ok is
// false if no change is under way.
func (k Keyring) From() (from Network, until time.Time, ok bool) {
	if len(k.old) == 0 {
		return Network{}, time.Time{}, false
	}
	return NewNetwork(k.old[0].Key, k.current.admin), time.Unix(k.old[0].Until, 0), true
}

// Take follows the orders of a Store. changed is false if there is nothing new in
// them.
func (k Keyring) Take(now overlay.Instant, orders []Record) (next Keyring, changed bool) {
	base := k.current
	if from, _, ok := k.From(); ok {
		base = from
	}
	var best Record
	var to NetworkKey
	for _, r := range orders {
		o, err := ParseRotation(r.Body)
		if err != nil || r.Kind != KindRotation || r.Expires <= unix(now) || o.From != base.Root().fingerprint() || o.To == base.key {
			continue
		}
		if best.Kind == 0 || cmp.Or(cmp.Compare(r.Version, best.Version), r.Origin.Compare(best.Origin)) < 0 {
			best, to = r, o.To
		}
	}
	if best.Kind == 0 || to == k.current.key {
		return k, false
	}
	old := []OldKey{{base.key, best.Expires}, {k.current.key, best.Expires}}
	for _, o := range k.old {
		old = append(old, OldKey{o.Key, best.Expires})
	}
	return NewKeyring(NewNetwork(to, k.current.admin), old...), true
}

// Expire forgets the old keys that are over.
func (k Keyring) Expire(now overlay.Instant) (next Keyring, changed bool) {
	left := slices.DeleteFunc(slices.Clone(k.old), func(o OldKey) bool { return o.Until <= unix(now) })
	return Keyring{k.current, left}, len(left) < len(k.old)
}

// OldText returns the text form of the old keys, a secret: a line that names the
// network that they belong to, then a line for each: the key's text form and when it
// ends, in Unix seconds.
func (k Keyring) OldText() []byte {
	b := fmt.Appendf(nil, "# keys that farlan replaced; good until the time behind each, in Unix seconds\nof %s\n", k.current.ID())
	for _, o := range k.old {
		b = fmt.Appendf(b, "%s %d\n", bytes.TrimSpace(o.Key.Text()), o.Until)
	}
	return b
}

var errOldKeys = errors.New("old keys: not as farlan writes them")

// AddOld returns k with the old keys of a text form. Those of another network than
// k's change nothing; neither do keys that are over. Errors never show the text.
func (k Keyring) AddOld(now overlay.Instant, text []byte) (Keyring, error) {
	lines := content(text)
	if len(lines) == 0 || len(lines) > MaxKeys {
		return k, errOldKeys
	}
	switch of, ok := bytes.CutPrefix(lines[0], []byte("of ")); {
	case !ok:
		return k, errOldKeys
	case string(of) != k.current.ID():
		return k, nil
	}
	var old []OldKey
	for _, line := range lines[1:] {
		text, until, ok := bytes.Cut(line, []byte(" "))
		end, err := strconv.ParseInt(string(until), 10, 64)
		if !ok || err != nil {
			return k, errOldKeys
		}
		key, err := parseNetworkKeyLine(text)
		if err != nil {
			return k, fmt.Errorf("old keys: %w", err)
		}
		if end > unix(now) {
			old = append(old, OldKey{key, min(end, unix(now.Add(MaxOverlap)))})
		}
	}
	return NewKeyring(k.current, old...), nil
}
