package cs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func recorded(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../testdata/transcript/*.xml")
	if err != nil || len(names) != 36 {
		t.Fatalf("%d messages, %v", len(names), err)
	}
	all := make(map[string][]byte)
	for _, name := range names {
		if all[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestRecorded: what a real provider wrote means what it means.
func TestRecorded(t *testing.T) {
	all := recorded(t)
	h := Header{Protocol: ToRequester, Correlation: "urn:uuid:c027db11-c70e-4386-a6fd-209a8a6f881c", Requester: "urn:ogf:network:vnet.lab:2026:nsa", Provider: "urn:ogf:network:alpha.lab:2026:nsa"}
	end := int64(1795332618)
	criteria := Criteria{
		ServiceType: "http://services.ogf.org/nsi/2013/07/descriptions/EVTS.A-GOLE", Capacity: 60,
		Source: "urn:ogf:network:alpha.lab:2026:topology:hosta?vlan=101", Dest: "urn:ogf:network:beta.lab:2026:topology:hostb?vlan=101",
	}
	m, err := Parse(all["03-in.xml"])
	if err != nil || m.Criteria == nil || m.Criteria.End.Time().Unix() != end {
		t.Fatalf("%+v, %v", m, err)
	}
	criteria.End = m.Criteria.End
	if want := (Message{Header: h, Op: ReserveConfirmed, Connection: "AL-f23ab15fd4", Description: "vnet", Criteria: &criteria}); !reflect.DeepEqual(m, want) {
		t.Fatalf("%+v", m)
	}
	m, err = Parse(all["15-in.xml"])
	r := Reservation{
		Connection: "AL-f23ab15fd4", Description: "vnet", Criteria: []Criteria{criteria}, Requester: h.Requester, Notice: 9,
		States: States{StateStart, StateProvisioned, StateCreated, Plane{true, 0, true}},
	}
	if err != nil || len(m.Reservations) != 1 || !reflect.DeepEqual(m.Reservations[0], r) {
		t.Fatalf("%+v, %v", m, err)
	}
	m, err = Parse(all["10-in.xml"])
	if err != nil || m.Connection != "AL-f23ab15fd4" || len(m.Notices) != 1 || m.Notices[0].Plane.Up() || m.Notices[0].At.Time().Nanosecond() != 761570000 {
		t.Fatalf("%+v, %v", m, err)
	}
}

// TestHostile: what tries to be large, deep, ambiguous or something else is an error, soon.
func TestHostile(t *testing.T) {
	good := string(recorded(t)["03-in.xml"])
	put := func(old, replacement string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q isn't in it", old)
		}
		return strings.Replace(good, old, replacement, 1)
	}
	body := "<ctypes:reserveConfirmed>"
	for name, s := range map[string]string{
		"empty":                "",
		"cut":                  good[:len(good)/2],
		"not XML":              "GET / HTTP/1.1",
		"too long":             good + strings.Repeat(" ", MaxSize),
		"document type":        "<!DOCTYPE a [<!ENTITY a \"aaaa\">]>" + good,
		"unknown entity":       put("vnet<", "&a;<"),
		"deep":                 strings.Repeat("<a>", 100_000),
		"deep within":          put(body, body+strings.Repeat("<a>", 20)+strings.Repeat("</a>", 20)),
		"wide":                 put(body, body+strings.Repeat("<a/>", maxElements)),
		"long text":            put("vnet<", strings.Repeat("x", maxText+1)+"<"),
		"long name":            put("AL-f23ab15fd4", strings.Repeat("x", maxName+1)),
		"many attributes":      put(`version="0"`, `version="0"`+strings.Repeat(` a="b"`, 20)),
		"two documents":        good + good,
		"another encoding":     `<?xml version="1.0" encoding="ISO-8859-1"?>` + good,
		"not UTF-8":            put("vnet", "\xff\xfe"),
		"another envelope":     strings.ReplaceAll(good, "soap/envelope", "soap/other"),
		"no header":            strings.ReplaceAll(good, "nsiHeader", "otherHeader"),
		"two headers":          put("<header:nsiHeader>", "<header:nsiHeader/><header:nsiHeader>"),
		"two bodies":           put("<soap:Body>", "<soap:Body/><soap:Body>"),
		"empty body":           good[:strings.Index(good, body)] + "</soap:Body></soap:Envelope>",
		"unknown message":      strings.ReplaceAll(good, "reserveConfirmed", "reserveEverything"),
		"another namespace":    strings.ReplaceAll(good, "connection/types", "connection/other"),
		"fault of another":     strings.ReplaceAll(good, "reserveConfirmed", "Fault"),
		"two connections":      put("<connectionId>", "<connectionId>a</connectionId><connectionId>"),
		"no connection":        put("<connectionId>AL-f23ab15fd4</connectionId>", ""),
		"no criteria":          strings.ReplaceAll(good, "criteria", "other"),
		"capacity of words":    put("<capacity>60", "<capacity>sixty"),
		"negative capacity":    put("<capacity>60", "<capacity>-60"),
		"too much capacity":    put("<capacity>60", "<capacity>9223372036854775808"),
		"negative version":     put(`version="0"`, `version="-1"`),
		"no time":              put("2026-11-22T07:30:18Z", "soon"),
		"no zone":              put("2026-11-22T07:30:18Z", "2026-11-22T07:30:18"),
		"time before all time": put("2026-11-22T07:30:18Z", "0001-01-01T00:00:00Z"),
		"time after all time":  put("2026-11-22T07:30:18Z", "9999-01-01T00:00:00Z"),
		"correlation":          put("urn:uuid:c027db11", "urn:uuid:xxxxxxxx"),
		"half truth":           put("<symmetricPath>false", "<symmetricPath>maybe"),
		"three directions":     put("Bidirectional", "Tridirectional"),
	} {
		if m, err := Parse([]byte(s)); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	for name, s := range map[string]string{
		"unknown elements": put(body, body+`<x:new xmlns:x="urn:x">1</x:new><other/>`),
		"comments":         put("vnet", "vn<!-- -->et"),
		"CDATA":            put("vnet", "<![CDATA[vnet]]>"),
		"no end":           put("<endTime>2026-11-22T07:30:18Z</endTime>", `<endTime xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:nil="true"/>`),
	} {
		m, err := Parse([]byte(s))
		if err != nil || m.Description != "vnet" || (m.Criteria.End == 0) != (name == "no end") {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestSTP(t *testing.T) {
	for _, s := range []string{"urn:ogf:network:a:p?vlan=1", "urn:ogf:network:a:p?vlan=1-4094", "urn:ogf:network:a:p?vlan=1,3-5,4094", "urn:ogf:network:a:p"} {
		if stp, err := ParseSTP(s); err != nil || stp.String() != s {
			t.Errorf("%s: %v, %v", s, stp, err)
		}
	}
	for _, s := range []string{
		"", "a", "?vlan=1", "urn:ogf:network:a?vlan=", "urn:ogf:network:a?vlan=0", "urn:ogf:network:a?vlan=4095", "urn:ogf:network:a?vlan=5-4",
		"urn:ogf:network:a?vlan=1,1", "urn:ogf:network:a?vlan=2-5,5", "urn:ogf:network:a?vlan=1-2-3", "urn:ogf:network:a?mpls=1",
		"urn:ogf:network:a b?vlan=1", "urn:ogf:network:a?vlan=+1", "urn:ogf:network:a?vlan=1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33",
	} {
		if stp, err := ParseSTP(s); err == nil {
			t.Errorf("%q is %v", s, stp)
		}
	}
	v := VLANs{{100, 109}, {200, 200}}
	if !v.Has(100) || !v.Has(109) || !v.Has(200) || v.Has(110) || v.Has(99) || v.One() != 0 || v[1:].One() != 200 {
		t.Fatal(v)
	}
}

// FuzzParse: nothing panics, and what was understood is understood the same when it is written
// again.
func FuzzParse(f *testing.F) {
	for _, b := range recorded(f) {
		f.Add(b)
	}
	e := Exception{ID: NotImplemented, Text: "no", Children: []Exception{{ID: "1"}}}
	for _, m := range []Message{
		{Op: Fault, Exception: &e},
		{Op: Error, Exception: &e},
		{Op: QuerySummary, Query: &Query{Globals: []string{"a"}}},
		{Op: QueryNotificationSyncConfirmed, Notices: []Notice{{Op: ErrorEvent, Connection: "c", Event: ForcedEnd}, {Op: ReserveTimeout, Connection: "c"}}},
	} {
		m.Header = Header{ToProvider, "urn:uuid:00000000-0000-0000-0000-000000000000", "r", "p", "u"}
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrMessage) {
				t.Fatal(err)
			}
			return
		}
		written := m.Append([]byte("x"))
		again, err := Parse(written[1:])
		if err != nil || !bytes.Equal(again.Append([]byte("x")), written) {
			t.Fatalf("%v\n%s\n%s", err, b, written)
		}
	})
}
