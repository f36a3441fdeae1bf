package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"farlan/overlay"
	"farlan/reserve"
)

// A request is what the program reads.
type request struct {
	Schema   int        `json:"schema_version"`
	Verb     string     `json:"verb"`
	Agent    string     `json:"agent"`
	Now      string     `json:"now"`
	Want     *wantJSON  `json:"want,omitempty"`
	Grant    *grantJSON `json:"grant,omitempty"`
	RateKbit int64      `json:"rate_kbit,omitempty"`
	End      string     `json:"end,omitempty"`
}

type wantJSON struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	RateKbit int64  `json:"rate_kbit"`
	From     string `json:"from"`
	To       string `json:"to"`
	Via      string `json:"via,omitempty"`
	End      string `json:"end"`
	Owner    string `json:"owner,omitempty"`
}

type grantJSON struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind,omitempty"`
	State    string    `json:"state,omitempty"`
	RateKbit int64     `json:"rate_kbit,omitempty"`
	End      string    `json:"end,omitempty"`
	Handle   string    `json:"handle,omitempty"`
	Up       bool      `json:"up,omitempty"`
	Mark     *markJSON `json:"mark,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

type markJSON struct {
	TOS      uint8  `json:"tos,omitempty"`
	Priority uint32 `json:"priority,omitempty"`
	Device   string `json:"device,omitempty"`
	Source   string `json:"source,omitempty"`
	Peer     string `json:"peer,omitempty"`
}

// An answer is what the program prints.
type answer struct {
	Schema int          `json:"schema_version"`
	Grant  *grantJSON   `json:"grant"`
	Grants *[]grantJSON `json:"grants"`
	Offer  *struct {
		Kind     string `json:"kind"`
		RateKbit int64  `json:"rate_kbit"`
		FreeKbit int64  `json:"free_kbit"`
	} `json:"offer"`
	Usage *struct {
		Bytes   uint64 `json:"bytes"`
		Packets uint64 `json:"packets"`
		Dropped uint64 `json:"dropped"`
		Backlog uint64 `json:"backlog"`
	} `json:"usage"`
	Caps *struct {
		Kinds        []string `json:"kinds"`
		Modify       bool     `json:"modify"`
		SetupSeconds int      `json:"setup_seconds"`
		MostKbit     int64    `json:"most_kbit"`
	} `json:"caps"`
	FreeKbit int64 `json:"free_kbit"`
}

// errAnswer is an answer that isn't as the package comment says: the outcome isn't known.
var errAnswer = errors.New("exec: the program's answer is wrong")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errAnswer, fmt.Sprintf(format, args...))
}

// maxRate is 10 Tbit/s, as elsewhere.
const maxRate = int64(10_000 * reserve.Gbit)

// states are those that a program may tell.
var states = []reserve.State{reserve.Held, reserve.Committed, reserve.Activating, reserve.Active, reserve.Degraded, reserve.Releasing, reserve.Lost}

func stamp(t overlay.Instant) string {
	if t == 0 {
		return ""
	}
	return t.Time().Format(time.RFC3339Nano)
}

func word(k reserve.Kind) string {
	if k == reserve.NoKind {
		return ""
	}
	return k.String()
}

func wantOf(w reserve.Want) *wantJSON {
	j := &wantJSON{
		ID: w.ID.String(), Kind: word(w.Kind), RateKbit: int64(w.Rate), From: w.From.String(), To: w.To.String(),
		End: stamp(w.End), Owner: w.Owner,
	}
	if w.Via.IsValid() {
		j.Via = w.Via.String()
	}
	return j
}

func grantOf(g reserve.Grant) *grantJSON {
	j := &grantJSON{
		ID: g.ID.String(), Kind: word(g.Kind), RateKbit: int64(g.Rate), End: stamp(g.End), Handle: g.Handle,
		Up: g.Up, Reason: g.Reason,
	}
	if g.State != reserve.Requested {
		j.State = g.State.String()
	}
	if m := g.Mark; m != (reserve.Mark{}) {
		j.Mark = &markJSON{TOS: m.TOS, Priority: m.Priority, Device: m.Device, Source: address(m.Source), Peer: address(m.Peer)}
	}
	return j
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// parse reads an answer, and nothing after it.
func parse(b []byte) (answer, error) {
	var a answer
	if err := json.Unmarshal(b, &a); err != nil {
		return a, bad("%v", err)
	}
	if a.Schema != Schema {
		return a, bad("schema_version %d, want %d", a.Schema, Schema)
	}
	return a, nil
}

// grant reads the answer about a grant of which g is known.
func (a answer) grant(g reserve.Grant) (reserve.Grant, error) {
	if a.Grant == nil {
		return g, bad("it has no grant")
	}
	after, err := a.Grant.read()
	if err != nil {
		return g, err
	}
	if after.ID != g.ID {
		return g, bad("asked about %v, it answers about %v", g.ID, after.ID)
	}
	// The end is ours to say: a backend that has a later one is told when it is over.
	if after.End == 0 || (g.End != 0 && g.End.Before(after.End)) {
		after.End = g.End
	}
	return after, nil
}

func (j grantJSON) read() (reserve.Grant, error) {
	var g reserve.Grant
	id, err := reserve.ParseID(j.ID)
	if err != nil {
		return g, bad("%v", err)
	}
	g = reserve.Grant{ID: id, Rate: reserve.Rate(j.RateKbit), Handle: j.Handle, Up: j.Up, Reason: clean(j.Reason)}
	if j.RateKbit < 0 || j.RateKbit > maxRate {
		return g, bad("a rate of %d kbit/s", j.RateKbit)
	}
	if len(j.Handle) > maxText || clean(j.Handle) != j.Handle {
		return g, bad("the handle %.40q…", j.Handle)
	}
	if g.Kind, err = kindOf(j.Kind); err != nil {
		return g, err
	}
	i := slices.IndexFunc(states, func(s reserve.State) bool { return s.String() == j.State })
	if i < 0 {
		return g, bad("the state %.40q", j.State)
	}
	g.State = states[i]
	if g.End, err = timeOf(j.End); err != nil {
		return g, err
	}
	if g.Kind == reserve.NoKind {
		return g, bad("it doesn't say which kind the grant is of")
	}
	if j.Mark != nil {
		g.Mark, err = j.Mark.read()
	}
	return g, err
}

func kindOf(s string) (reserve.Kind, error) {
	for _, k := range []reserve.Kind{reserve.NoKind, reserve.Circuit, reserve.Guarantee, reserve.Priority} {
		if word(k) == s {
			return k, nil
		}
	}
	return reserve.NoKind, bad("the kind %.40q", s)
}

func timeOf(s string) (overlay.Instant, error) {
	if s == "" {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return 0, bad("the end %.40q", s)
	}
	return overlay.Instant(t.UnixNano()), nil
}

func (j markJSON) read() (reserve.Mark, error) {
	m := reserve.Mark{TOS: j.TOS, Priority: j.Priority, Device: j.Device}
	if j.TOS&3 != 0 {
		return m, bad("tos %d has ECN bits set", j.TOS)
	}
	// 15 characters as the kernel allows; it takes neither slashes nor spaces.
	if len(j.Device) > 15 || strings.ContainsFunc(j.Device, func(r rune) bool { return r <= ' ' || r == '/' || r >= utf8.RuneSelf || r == 0x7f }) {
		return m, bad("the device %.40q", j.Device)
	}
	for _, a := range []struct {
		text string
		to   *netip.Addr
	}{{j.Source, &m.Source}, {j.Peer, &m.Peer}} {
		if a.text == "" {
			continue
		}
		addr, err := netip.ParseAddr(a.text)
		if err != nil {
			return m, bad("the address %.60q", a.text)
		}
		*a.to = addr
	}
	return m, nil
}

func (a answer) grants() ([]reserve.Grant, error) {
	if a.Grants == nil {
		return nil, bad("it has no grants")
	}
	if len(*a.Grants) > maxGrants {
		return nil, bad("%d grants", len(*a.Grants))
	}
	all := make([]reserve.Grant, 0, len(*a.Grants))
	for _, j := range *a.Grants {
		g, err := j.read()
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

func (a answer) offer(w reserve.Want) (reserve.Offer, error) {
	if a.Offer == nil {
		return reserve.Offer{}, bad("it has no offer")
	}
	k, err := kindOf(a.Offer.Kind)
	if r, f := a.Offer.RateKbit, a.Offer.FreeKbit; err == nil && (r < 0 || f < 0 || r > maxRate || f > maxRate) {
		err = bad("it offers %d of %d kbit/s", r, f)
	}
	o := reserve.Offer{Kind: k, Rate: min(reserve.Rate(a.Offer.RateKbit), w.Rate), Free: reserve.Rate(a.Offer.FreeKbit)}
	return o, err
}

func (a answer) usage() (reserve.Usage, error) {
	if a.Usage == nil {
		return reserve.Usage{}, bad("it has no usage")
	}
	return reserve.Usage(*a.Usage), nil
}

func (a answer) caps() (reserve.Caps, error) {
	if a.Caps == nil {
		return reserve.Caps{}, bad("it has no caps")
	}
	c := reserve.Caps{Name: "exec", External: true, Modify: a.Caps.Modify, Setup: a.Caps.SetupSeconds, Most: reserve.Rate(a.Caps.MostKbit)}
	if c.Setup < 0 || c.Setup > math.MaxInt32 || a.Caps.MostKbit < 0 || a.Caps.MostKbit > maxRate || len(a.Caps.Kinds) == 0 || len(a.Caps.Kinds) > 3 {
		return c, bad("its caps: %+v", *a.Caps)
	}
	for _, s := range a.Caps.Kinds {
		k, err := kindOf(s)
		if err != nil || k == reserve.NoKind {
			return c, bad("the kind %.40q", s)
		}
		c.Kinds = append(c.Kinds, k)
	}
	return c, nil
}

// clean is text as it may stand in a line of a terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.TrimSpace(s[:min(len(s), maxReason)])
}
