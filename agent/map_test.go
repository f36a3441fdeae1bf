package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"farlan/discovery"
	"farlan/measure"
	"farlan/overlay"
)

// A mapWorld is a node that runs no network: it knows what others are said to have told.
type mapWorld struct {
	t       *testing.T
	n       *node
	network discovery.NetworkKey
	keys    map[string]ed25519.PrivateKey
}

func newMapWorld(t *testing.T, others ...string) *mapWorld {
	t.Helper()
	w := &mapWorld{t: t, keys: make(map[string]ed25519.PrivateKey)}
	copy(w.network[:], "a network's key of thirty-two byt")
	for i, name := range append([]string{"self"}, others...) {
		seed := bytes.Repeat([]byte{byte(i + 1), byte(i >> 8)}, ed25519.SeedSize/2)
		w.keys[name] = ed25519.NewKeyFromSeed(seed)
	}
	own := identity{key: w.keys["self"]}
	w.n = newNode(&config{Name: "self"}, slog.New(slog.DiscardHandler), discovery.NewKeyring(discovery.NewNetwork(w.network, discovery.AdminPublic{})), own, discovery.Credential{})
	for _, name := range others {
		p := w.n.meet(w.n.now(), w.id(name))
		p.member.Name, p.state = name, measure.Up
		w.publish(name, discovery.KindMember, must(discovery.Member{Name: name, SessionKey: [32]byte{1}}.Append(nil)))
	}
	return w
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func (w *mapWorld) id(name string) overlay.AgentID {
	return overlay.AgentID(w.keys[name].Public().(ed25519.PublicKey))
}

// publish has an agent tell something.
func (w *mapWorld) publish(name string, kind discovery.Kind, body []byte) {
	w.t.Helper()
	now := w.n.wall()
	r, err := discovery.SignRecord(w.keys[name], w.network, discovery.Record{Kind: kind, Version: uint64(now), Expires: now.Add(time.Hour).Time().Unix(), Body: body})
	if err != nil {
		w.t.Fatal(err)
	}
	if bad := w.n.store.Load(now, [][]byte{r.Bytes()}); bad != 0 {
		w.t.Fatalf("%s of %s wasn't taken", kind, name)
	}
}

// tell has an agent tell its round trips, in milliseconds.
func (w *mapWorld) tell(name string, rtts map[overlay.AgentID]float64) {
	w.t.Helper()
	var links []discovery.Link
	for id, ms := range rtts {
		links = append(links, discovery.Link{Peer: id, Pair: measure.Pair{
			RTT: time.Duration(ms * 1e6), RTTSource: measure.Measured, RTTAt: w.n.wall().Add(-7 * time.Second),
		}})
	}
	w.publish(name, discovery.KindLinks, must(discovery.AppendLinks(nil, w.n.wall(), discovery.Facts{Access: measure.Access{Up: 1e6, UpSource: measure.Configured}}, links)))
}

func (w *mapWorld) peerMap() peerMap {
	f := w.n.mapFacts(w.n.now())
	return f.peerMap(nil)
}

func (w *mapWorld) pair(from, to string) mapPairView {
	w.t.Helper()
	v := w.peerMap().view()
	for _, p := range v.Pairs {
		if p.From == from && p.To == to {
			return p
		}
	}
	w.t.Fatalf("no pair from %s to %s in %+v", from, to, v)
	return mapPairView{}
}

// Each pair is told by the agent that it begins at, and by nobody else: a liar spoils
// its own rows. Who is gone isn't shown, nor what he or others said of him.
func TestMapByWhom(t *testing.T) {
	w := newMapWorld(t, "a", "b", "liar")
	a, b, liar := w.id("a"), w.id("b"), w.id("liar")
	w.tell("a", map[overlay.AgentID]float64{b: 50, liar: 70, w.n.self: 20})
	w.tell("b", map[overlay.AgentID]float64{a: 52})
	w.tell("liar", map[overlay.AgentID]float64{a: 0.1, b: 0.1, w.n.self: 0.1, {9, 9}: 0.1})
	for pair, want := range map[[2]string]float64{
		{"a", "b"}: 50, {"b", "a"}: 52, {"a", "liar"}: 70, {"liar", "a"}: 0.1, {"liar", "b"}: 0.1, {"a", "self"}: 20, {"liar", "self"}: 0.1,
		{"b", "liar"}: 0, {"b", "self"}: 0, {"self", "a"}: 0, {"self", "liar"}: 0,
	} {
		p := w.pair(pair[0], pair[1])
		switch {
		case want == 0:
			if p.RTTms != nil || p.RTTSource != nil || p.RTTAgeS != nil || p.Loss != nil || p.CapacityMbit != nil || p.MTU != nil {
				t.Errorf("%v: %+v, want nothing", pair, p)
			}
		case p.RTTms == nil || *p.RTTms < want*0.999 || *p.RTTms > want*1.001 || *p.RTTSource != "measured" || *p.RTTAgeS < 6 || *p.RTTAgeS > 60:
			t.Errorf("%v: %+v, want %v ms", pair, p, want)
		}
	}
	v := w.peerMap().view()
	if len(v.Agents) != 4 || len(v.Pairs) != 12 || v.Agents[0].Name != "a" || *v.Agents[0].UpMbit < 0.999 || v.Agents[0].DownMbit != nil {
		t.Errorf("%+v", v)
	}
	w.n.peers[liar].state = measure.Gone
	if v := w.peerMap().view(); len(v.Agents) != 3 || len(v.Pairs) != 6 {
		t.Errorf("with one gone: %+v", v)
	}
}

// A record that makes no sense is counted where all drops are, and what its origin said
// before holds.
func TestLiarIsCounted(t *testing.T) {
	w := newMapWorld(t, "a", "liar")
	liar := w.id("liar")
	w.tell("liar", map[overlay.AgentID]float64{w.id("a"): 30})
	now := w.n.wall()
	body := must(discovery.AppendLinks(nil, now, discovery.Facts{}, []discovery.Link{{Peer: w.id("a")}, {Peer: liar}}))
	r, err := discovery.SignRecord(w.keys["liar"], w.network, discovery.Record{
		Kind: discovery.KindLinks, Version: uint64(now.Add(time.Second)), Expires: now.Add(time.Hour).Time().Unix(), Body: body,
	})
	if err != nil {
		t.Fatal(err)
	}
	theirs := discovery.NewNetwork(w.network, discovery.AdminPublic{}).NewStore(liar, 1, discovery.Limits{})
	theirs.Publish(now, r)
	theirs.Connected(now, w.n.self)
	w.n.store.Connected(now, liar)
	theirs.Tick(now)
	refused := 0
	for range 3 { // a digest, the request, the record
		theirs.Flush(func(_ overlay.AgentID, msg []byte) {
			if w.n.store.Receive(now, liar, msg) != nil {
				refused++
			}
		})
		w.n.store.Tick(now)
		w.n.store.Flush(func(_ overlay.AgentID, msg []byte) { _ = theirs.Receive(now, w.n.self, msg) })
	}
	w.n.collectRecords()
	if d := w.n.drops.views(); refused != 1 || len(d) != 1 || d[0] != (dropView{"record refused", 1}) {
		t.Errorf("%d refused, counted %+v", refused, d)
	}
	if p := w.pair("liar", "a"); p.RTTms == nil || *p.RTTms < 29 {
		t.Errorf("what it said before is gone: %+v", p)
	}
}

// hunches predict the same of every pair.
type hunches struct{}

func (hunches) RTT(overlay.AgentID, overlay.AgentID) (time.Duration, float64, bool) {
	return 80 * time.Millisecond, 0.12, true
}

func (hunches) Capacity(overlay.AgentID, overlay.AgentID) (int64, float64, bool) {
	return 3e8, 0.3, true
}

func (h hunches) frozen() predictor { return h }

// What is predicted is said to be, and never stands in for what was measured.
func TestMapPredicted(t *testing.T) {
	w := newMapWorld(t, "a", "b")
	w.tell("a", map[overlay.AgentID]float64{w.id("b"): 50})
	w.n.predict = hunches{}
	if p := w.pair("a", "b"); *p.RTTms > 51 || *p.RTTSource != "measured" || p.CapacitySource != "predicted" || *p.CapacityLowMbit != 210 {
		t.Errorf("%+v", p)
	}
	p := w.pair("b", "a")
	if *p.RTTms != 80 || *p.RTTSource != "predicted" || p.RTTAgeS != nil || *p.RTTError != 0.12 || p.JitterMs != nil {
		t.Errorf("%+v", p)
	}
	if p.rttText() != "~80.0" || p.rttKnown() != "predicted ±12%" || p.capacityText() != "~300" {
		t.Errorf("%s, %s, %s", p.rttText(), p.rttKnown(), p.capacityText())
	}
}

// A pair that goes by way of a member has a row, which says so, and by whom if it is this
// agent's own. Nothing is predicted by it or in its place, and it is no link.
func TestMapRelayed(t *testing.T) {
	w := newMapWorld(t, "a", "b", "c")
	a, b, c := w.id("a"), w.id("b"), w.id("c")
	w.n.predict = hunches{}
	row := func(id overlay.AgentID, ms int, relayed bool) discovery.Link {
		return discovery.Link{Peer: id, Pair: measure.Pair{
			RTT: time.Duration(ms) * time.Millisecond, RTTSource: measure.Measured, RTTAt: w.n.wall(), Relayed: relayed,
			Loss: 0.02, LossHigh: 0.04, LossKnown: true,
		}}
	}
	w.publish("a", discovery.KindLinks, must(discovery.AppendLinks(nil, w.n.wall(), discovery.Facts{}, []discovery.Link{row(b, 90, true), row(c, 40, false)})))
	p := w.pair("a", "b")
	if !p.Relayed || p.Via != nil || p.rttText() != "90.1" && p.rttText() != "90.0" || p.rttKnown() != "measured 0s relayed" || *p.Loss < 0.018 || p.CapacityMbit != nil || p.CapacitySource != "none" {
		t.Errorf("%+v, %s %s", p, p.rttText(), p.rttKnown())
	}
	if p := w.pair("a", "c"); p.Relayed || p.CapacitySource != "predicted" {
		t.Errorf("%+v", p)
	}
	if links, _ := w.n.store.Links(a); len(links) != 1 || links[0].Peer != c {
		t.Errorf("a's links are %+v", links)
	}

	// This agent reaches a and b directly, and c by way of b.
	now := w.n.now()
	var linked []*peer
	for _, id := range []overlay.AgentID{a, b, c} {
		p := w.n.peers[id]
		p.heard(now)
		q := p.path.Probe(now)
		p.path.Receive(now.Add(30*time.Millisecond), overlay.Probe{Number: 1, Echo: q.Number}, true)
		out := &outbound{way: overlay.Direct(netip.MustParseAddrPort("192.0.2.1:4747"))}
		if id == c {
			out = &outbound{way: overlay.Relayed(b), relay: w.n.peers[b]}
			p.trains.out.Rate, p.trains.out.at = 1e8, now // from when it was direct
		}
		p.out.Store(out)
		linked = append(linked, p)
	}
	slices.SortFunc(linked, func(p, q *peer) int { return p.id.Compare(q.id) })
	w.n.view.Store(&view{linked: linked})
	p = w.pair("self", "c")
	if !p.Relayed || p.Via == nil || *p.Via != "b" || *p.RTTms != 30 || p.CapacityMbit != nil || !strings.HasSuffix(p.rttKnown(), " via b") {
		t.Errorf("%+v, %s", p, p.rttKnown())
	}
	if p := w.pair("self", "a"); p.Relayed || p.Via != nil || *p.RTTms != 30 {
		t.Errorf("%+v", p)
	}
	rows := w.n.rowsToTell(now)
	if len(rows) != 3 || !slices.IsSortedFunc(rows, func(a, b discovery.Link) int { return a.Peer.Compare(b.Peer) }) {
		t.Errorf("%+v", rows)
	}
	for _, r := range rows {
		if r.Relayed != (r.Peer == c) {
			t.Errorf("%+v", r)
		}
	}
	w.n.tellLinks(now)
	if told, _, _ := w.n.store.Told(w.n.self); len(told.Rows) != 3 {
		t.Errorf("told %+v", told)
	}
	if links := linksOf(w.n.own.rows.Links); len(links) != 2 {
		t.Errorf("predicted by %+v", links)
	}
}

// serve answers one request as the agent's control socket does.
func (w *mapWorld) serve(url string) (int, string) {
	w.t.Helper()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-w.n.mail.ready:
				for _, e := range w.n.mail.take() {
					e(w.n.now())
				}
			case <-stop:
				return
			}
		}
	}()
	r := httptest.NewRecorder()
	w.n.serveMap(r, httptest.NewRequestWithContext(context.Background(), http.MethodGet, url, nil))
	return r.Code, r.Body.String()
}

// Of many agents a part of the map is to be asked for.
func TestMapOfMany(t *testing.T) {
	var names []string
	for i := range maxMap {
		names = append(names, fmt.Sprintf("agent-%03d", i))
	}
	w := newMapWorld(t, names...)
	if code, body := w.serve("/map"); code == http.StatusOK || !strings.Contains(body, "--own, --from AGENT or --to AGENT") {
		t.Errorf("%d: %.200s", code, body)
	}
	for url, want := range map[string]int{"/map?own=1": maxMap, "/map?to=agent-007": maxMap, "/map?from=agent-001&to=self": 1} {
		code, body := w.serve(url)
		var v mapView
		if err := json.Unmarshal([]byte(body), &v); err != nil || code != http.StatusOK || len(v.Pairs) != want {
			t.Errorf("%s: %d, %d pairs, %v", url, code, len(v.Pairs), err)
		}
	}
	if code, body := w.serve("/map?from=nobody"); code != http.StatusNotFound || !strings.Contains(body, `"code":5`) {
		t.Errorf("%d: %s", code, body)
	}
}

// A matrix fits a screen: of 16 agents as a whole, of 100 by parts.
func TestMatrixFits(t *testing.T) {
	for _, count := range []int{3, 16, 100} {
		var v mapView
		for i := range count {
			v.Agents = append(v.Agents, mapAgentView{Name: fmt.Sprintf("long-name-%03d", i)})
			for j := range count {
				if i != j {
					p := mapPairView{From: v.Agents[i].Name, To: fmt.Sprintf("long-name-%03d", j), CapacitySource: "none"}
					if (i+j)%5 != 0 {
						p.RTTms, p.RTTSource = new(float64(i*j)/7), new("measured")
					}
					v.Pairs = append(v.Pairs, p)
				}
			}
		}
		for metric := range metrics {
			var b bytes.Buffer
			showMatrix(&b, v, metric)
			lines, widest := strings.Split(strings.TrimSpace(b.String()), "\n"), 0
			for _, l := range lines {
				widest = max(widest, utf8.RuneCountInString(l))
			}
			blocks := (count + blockColumns - 1) / blockColumns
			if want := blocks*(count+2) - 1; len(lines) != want || widest > 200 || strings.Contains(b.String(), "%!") {
				t.Errorf("%s of %d agents: %d lines, want %d, the widest has %d characters", metric, count, len(lines), want, widest)
			}
		}
	}
}

// What a super-frame is on the wire: its payload, and headers for each segment.
func TestOnWire(t *testing.T) {
	plain := overlay.Frame{Head: make([]byte, 100), Body: [][]byte{make([]byte, 400)}}
	if n := onWire(&plain); n != 500 {
		t.Errorf("%d", n)
	}
	super := overlay.Frame{Head: make([]byte, 66), Body: [][]byte{make([]byte, 3000)}, Offload: overlay.Offload{Super: overlay.SuperTCP4, Segment: 1000, Start: 34, Offset: 16}}
	super.Head[46] = 8 << 4
	if n := onWire(&super); n != 3000+3*66 {
		t.Errorf("3 segments take %d bytes", n)
	}
	super.Super, super.Head = overlay.SuperUDP, super.Head[:42]
	if n := onWire(&super); n != 3000+3*42 {
		t.Errorf("3 segments take %d bytes", n)
	}
}

// The loop is held for as long as gathering takes, and everything else is done beside it:
// of 500 agents that tell 32 rows each all pairs are shown.
func BenchmarkMap(b *testing.B) {
	for _, count := range []int{100, maxMap} {
		t := &testing.T{}
		var names []string
		for i := 1; i < count; i++ {
			names = append(names, fmt.Sprintf("agent-%03d", i))
		}
		w := newMapWorld(t, names...)
		for i, name := range names {
			rtts := make(map[overlay.AgentID]float64)
			for k := 1; k <= linksTold; k++ {
				j := (i + k*k + k) % len(names)
				if j != i {
					rtts[w.id(names[j])] = 5 + float64((i*7+j*7)%200)
				}
			}
			w.tell(name, rtts)
		}
		now := w.n.now()
		for range 60 {
			now = now.Add(time.Second)
			w.n.guess(now, w.n.liveMembers())
		}
		b.Run(fmt.Sprintf("gather-%d", count), func(b *testing.B) {
			for b.Loop() {
				w.n.mapFacts(now)
			}
		})
		f := w.n.mapFacts(now)
		b.Run(fmt.Sprintf("pairs-%d", count), func(b *testing.B) {
			for b.Loop() {
				f.peerMap(nil)
			}
		})
	}
}
