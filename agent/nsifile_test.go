package agent

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi"
	"farlan/reserve/nsi/provider"
)

const (
	endA = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
	endB = "12D3KooWSHj3RRbBjD15g6wekV8y3mm57Pobmps2g2WJm6F67Lay"
)

func agentID(t testing.TB, s string) overlay.AgentID {
	t.Helper()
	id, err := overlay.ParseAgentID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// nsiExample writes the example, with changes "old\nnew", and the files that it names; it returns
// its path.
func nsiExample(t *testing.T, changes ...string) string {
	t.Helper()
	b, err := os.ReadFile("../packaging/nsi-example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := strings.ReplaceAll(string(b), "/etc/farlan/", "")
	for i := 0; i+1 < len(changes); i += 2 {
		if !strings.Contains(file, changes[i]) {
			t.Fatalf("the example has no %q", changes[i])
		}
		file = strings.ReplaceAll(file, changes[i], changes[i+1])
	}
	ca, err := provider.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("home.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"nsi.yaml": []byte(file), "nsi.crt": cert, "nsi.key": key, "nsi-ca.crt": ca.PEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "nsi.yaml")
}

func TestNSIExample(t *testing.T) {
	path := nsiExample(t, "# callback:", "callback:", `#   listen: ":8444"`, `  listen: "127.0.0.1:0"`, "#   url:", "  url:", "#   caller:", "  caller:")
	self := agentID(t, endB)
	f, err := readNSIFile(path, self)
	if err != nil {
		t.Fatal(err)
	}
	c := f.Config
	if c.Requester == "" || c.Version != 1 || !c.Modify || c.Longest != time.Hour || c.Subnet != netip.MustParsePrefix("10.98.0.0/16") ||
		c.Key != filepath.Join(filepath.Dir(path), "nsi.key") || c.Callback.Caller != "nsa.example.net" || len(c.Ends) != 2 {
		t.Errorf("%+v", c)
	}
	if e := c.Ends[agentID(t, endA)]; e != (nsi.End{STP: "urn:ogf:network:example.net:2026:home?vlan=100-109", Capacity: reserve.Gbit, Device: "eth1"}) {
		t.Errorf("%+v", e)
	}
	if f.Device != "ens4" || f.VLANs.String() != "200-219,230" || f.warning() != "" {
		t.Errorf("%s %v %q", f.Device, f.VLANs, f.warning())
	}
	opened, err := f.open(wallClock)
	if err != nil || opened.Callback.Listener == nil {
		t.Fatal(opened, err)
	}
	if _, err := nsi.Open(opened); err != nil {
		t.Error(err)
	}
	if err := opened.Callback.Listener.Close(); err != nil {
		t.Error(err)
	}

	elsewhere, err := readNSIFile(path, overlay.AgentID{9})
	if err != nil || elsewhere.Device != "" || elsewhere.VLANs.Has(200) || !strings.Contains(elsewhere.warning(), path) {
		t.Errorf("%v; %+v", err, elsewhere)
	}
	if nobody, err := readNSIFile(path, overlay.AgentID{}); err != nil || nobody.warning() != "" {
		t.Errorf("%v; %+v", err, nobody)
	}
	silent, err := readNSIFile(nsiExample(t), self)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := silent.open(wallClock); err != nil || opened.Callback.Listener != nil {
		t.Error(opened, err)
	}
}

// printed is what a person sees of an error.
func printed(err error) string {
	var b bytes.Buffer
	if err != nil {
		printError(&b, err)
	}
	return b.String()
}

func TestNSIFileErrors(t *testing.T) {
	for name, c := range map[string]struct {
		change []string
		want   []string // in what a person sees, all of them
	}{
		"unknown key":       {[]string{"subnet:", "subnets:"}, []string{`unknown key "subnets"`, `nearest known key is "subnet"`, "line "}},
		"unknown below":     {[]string{"    device: eth1", "    devise: eth1"}, []string{`unknown key "devise"`, `"device"`, "line 47"}},
		"every problem":     {[]string{"https://nsa", "http://nsa", "version: 1", "version: 7", "1Gbit", "1kbit"}, []string{"url", "version 7", "a port of 1kbit"}},
		"not a number":      {[]string{"version: 1", "version: one"}, []string{`key "version"`, `"one"`, "line "}},
		"twice":             {[]string{"longest: 1h", "modify: off"}, []string{`key "modify" is given twice`}},
		"no STP":            {[]string{"urn:ogf:network:example.net:2026:home?vlan=100-109", "home"}, []string{`STP "home"`, "urn:ogf:network:"}},
		"no VLANs":          {[]string{"home?vlan=100-109", "home"}, []string{"has no VLANs", "?vlan=100-109"}},
		"VLANs backward":    {[]string{"100-109", "109-100"}, []string{"109-100", "ascending"}},
		"no rate":           {[]string{"1Gbit", "fast"}, []string{`key "capacity"`, `rate "fast"`}},
		"no agent":          {[]string{endA, "home"}, []string{`key "agent"`, `"home"`}},
		"agent twice":       {[]string{endB, endA}, []string{endA, "line 48", "has two ends"}},
		"agent left out":    {[]string{"  - agent: " + endA, "  -"}, []string{"an end without an agent", "farlan status"}},
		"device left out":   {[]string{"    device: eth1", ""}, []string{"device of agent " + endA, "name the interface there"}},
		"device too long":   {[]string{"eth1", "elevenbytes"}, []string{`device "elevenbytes"`, "15 bytes"}},
		"subnet too small":  {[]string{"10.98.0.0/16", "10.98.0.0/24"}, []string{"subnet 10.98.0.0/24", "/18 or larger"}},
		"subnet left out":   {[]string{"subnet: 10.98.0.0/16", ""}, []string{"subnet: none", "10.98.0.0/16"}},
		"no subnet":         {[]string{"10.98.0.0/16", "here"}, []string{`key "subnet"`, `"here"`}},
		"modify":            {[]string{"modify: on", "modify: maybe"}, []string{`key "modify"`, `"maybe"`, "on or off"}},
		"no duration":       {[]string{"1h", "long"}, []string{`key "longest"`, `"long"`}},
		"callback nowhere":  {[]string{"# callback:", "callback: {url: 'https://home.example/'}"}, []string{`callback listen ""`, "10.99.1.1:8444"}},
		"callback unsecure": {[]string{"# callback:", "callback: {listen: ':8444', url: 'http://home.example/'}"}, []string{`callback url "http://home.example/"`, "https://"}},
		"ends no list":      {[]string{"ends:\n", "ends: none\nrest:\n"}, []string{`key "ends": want a list`, `unknown key "rest"`}},
		"a list":            {[]string{"longest: 1h", "longest: [1h]"}, []string{`key "longest": want a plain value`}},
		"not YAML":          {[]string{"longest: 1h", "longest: ["}, []string{"NSI file", "key: value"}},
		"no such key file":  {[]string{"key: nsi.key", "key: nowhere.key"}, []string{"NSI key", "nowhere.key", "see that this user may read it"}},
		"another's key":     {[]string{"certificate: nsi.crt", "certificate: nsi-ca.crt"}, []string{"NSI certificate", "nsi-ca.crt", "belong to each other"}},
		"no authorities":    {[]string{"authorities: nsi-ca.crt", "authorities: nsi.key"}, []string{"NSI authorities", "no certificate"}},
		"not said who":      {[]string{"authorities: nsi-ca.crt", ""}, []string{"authorities: name a PEM file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := nsiExample(t, c.change...)
			_, err := readNSIFile(path, agentID(t, endA))
			got := printed(err)
			for _, want := range append(c.want, filepath.Dir(path)) {
				if !strings.Contains(got, want) {
					t.Errorf("there is no %q in\n%s", want, got)
				}
			}
		})
	}
}

func TestNSIFileItself(t *testing.T) {
	path := nsiExample(t)
	key := filepath.Join(filepath.Dir(path), "nsi.key")
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := readNSIFile(path, overlay.AgentID{})
	if got := printed(err); !strings.Contains(got, "others can read it (mode 0640)") || !strings.Contains(got, "chmod 600 "+key) {
		t.Error(got)
	}
	_, err = readNSIFile(path+"x", overlay.AgentID{})
	if got := printed(err); !errors.Is(err, os.ErrNotExist) || !strings.Contains(got, "nsi-example.yaml") {
		t.Error(got)
	}
	if _, err = readNSIFile(filepath.Dir(path), overlay.AgentID{}); !strings.Contains(printed(err), "see that it is a file") {
		t.Error(printed(err))
	}
	for _, empty := range []string{"", "# nothing\n", "[]", "x"} {
		if _, err := parseNSIFile("f", []byte(empty), overlay.AgentID{}); err == nil {
			t.Errorf("%q is good", empty)
		}
	}
}

// What check-config and a start would do with a file: the one touches nothing, and a taken port
// is told by the other.
func TestNSICallbackTaken(t *testing.T) {
	f, err := readNSIFile(nsiExample(t, "# callback:", "callback: {listen: '127.0.0.1:0', url: 'https://home.example/'}"), overlay.AgentID{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := f.open(wallClock)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Callback.Listener.Close()
	f.Listen = first.Callback.Listener.Addr().String()
	if _, err := readNSIFile(f.Path, overlay.AgentID{}); err != nil {
		t.Error(err)
	}
	if _, err := f.open(wallClock); !strings.Contains(printed(err), "a free port as the callback's listen in "+f.Path) {
		t.Error(printed(err))
	}
}

func FuzzNSIFile(f *testing.F) {
	b, err := os.ReadFile("../packaging/nsi-example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("ends: [{agent: x}, {}, [], &a [*a]]\ncallback: {listen: ':'}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseNSIFile("f", b, agentID(t, endA)) // must not panic
		if err == nil && (got.Device == "") != (got.VLANs == nil) {
			t.Errorf("%+v", got)
		}
	})
}
