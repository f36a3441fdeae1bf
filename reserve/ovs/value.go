//go:build linux

package ovs

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
)

// OVSDB writes values in its own way in JSON (RFC 7047 section 5.1): a uuid as ["uuid", "…"], a
// set that hasn't exactly one element as ["set", […]], a map as ["map", [[key, value], …]].

// A uuid names a row; the empty one none.
type uuid string

// A set is at most one uuid here, or a list of them.
type set []uuid

// A dict is a map from strings to strings.
type dict map[string]string

// A queueMap is the queues of a QoS row by their numbers.
type queueMap map[uint32]uuid

var (
	uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	errValue = errors.New("not a value of OVSDB's")
)

// MarshalJSON writes ["uuid", "…"].
func (u uuid) MarshalJSON() ([]byte, error) { return json.Marshal([2]string{"uuid", string(u)}) }

// UnmarshalJSON reads ["uuid", "…"].
func (u *uuid) UnmarshalJSON(b []byte) error {
	var pair []string
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 || pair[0] != "uuid" || !uuidForm.MatchString(pair[1]) {
		return fmt.Errorf("%w: %s", errValue, clip(string(b)))
	}
	*u = uuid(pair[1])
	return nil
}

// tagged reads ["tag", […]] and returns the list, or nil if b isn't tagged so.
func tagged(b []byte, tag string) ([]json.RawMessage, bool) {
	var pair []json.RawMessage
	if json.Unmarshal(b, &pair) != nil || len(pair) != 2 || string(pair[0]) != `"`+tag+`"` {
		return nil, false
	}
	var list []json.RawMessage
	return list, json.Unmarshal(pair[1], &list) == nil
}

// MarshalJSON writes ["set", […]].
func (s set) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{"set", append([]uuid{}, s...)})
}

// UnmarshalJSON reads a set of any number, also one that is written as its only element.
func (s *set) UnmarshalJSON(b []byte) error {
	list, ok := tagged(b, "set")
	if !ok {
		list = []json.RawMessage{b}
	}
	*s = make(set, len(list))
	for i, e := range list {
		if err := json.Unmarshal(e, &(*s)[i]); err != nil {
			return err
		}
	}
	return nil
}

// one returns the only element, or the empty uuid.
func (s set) one() uuid {
	if len(s) == 1 {
		return s[0]
	}
	return ""
}

// pairs reads ["map", [[key, value], …]].
func pairs(b []byte, add func(key, value json.RawMessage) error) error {
	list, ok := tagged(b, "map")
	if !ok {
		return fmt.Errorf("%w: %s", errValue, clip(string(b)))
	}
	for _, e := range list {
		var pair []json.RawMessage
		if err := json.Unmarshal(e, &pair); err != nil || len(pair) != 2 {
			return fmt.Errorf("%w: %s", errValue, clip(string(e)))
		}
		if err := add(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// MarshalJSON writes ["map", …], sorted by keys.
func (d dict) MarshalJSON() ([]byte, error) {
	list := [][2]string{}
	for _, k := range sorted(d) {
		list = append(list, [2]string{k, d[k]})
	}
	return json.Marshal([]any{"map", list})
}

// UnmarshalJSON reads ["map", …].
func (d *dict) UnmarshalJSON(b []byte) error {
	*d = make(dict)
	return pairs(b, func(key, value json.RawMessage) error {
		var k, v string
		err := errors.Join(json.Unmarshal(key, &k), json.Unmarshal(value, &v))
		(*d)[k] = v
		return err
	})
}

// MarshalJSON writes ["map", …], sorted by numbers.
func (q queueMap) MarshalJSON() ([]byte, error) {
	list := [][]any{}
	for _, n := range sorted(q) {
		list = append(list, []any{n, q[n]})
	}
	return json.Marshal([]any{"map", list})
}

// UnmarshalJSON reads ["map", …].
func (q *queueMap) UnmarshalJSON(b []byte) error {
	*q = make(queueMap)
	return pairs(b, func(key, value json.RawMessage) error {
		var n uint32
		var u uuid
		err := errors.Join(json.Unmarshal(key, &n), json.Unmarshal(value, &u))
		(*q)[n] = u
		return err
	})
}
