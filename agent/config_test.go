package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"farlan/overlay"
	"farlan/reserve"
)

const aSeed = "/ip4/192.0.2.1/udp/4747/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

func parseOptions(t *testing.T, environ map[string]string, file string, args ...string) (*config, error) {
	t.Helper()
	o := &options{}
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	o.addFlags(flags)
	path := filepath.Join(t.TempDir(), "farlan.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := flags.Parse(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { v, ok := environ[name]; return v, ok }
	if err := load(flags, lookup); err != nil {
		return nil, err
	}
	return o.parse()
}

func TestFlagOverEnvironmentOverFile(t *testing.T) {
	file := "name: file\nlisten: 127.0.0.1:1\nuplink: 10Mbit\ntap: [a0, 'b0,bridge=br0,mtu=1400']\nlan: eth0\n"
	c, err := parseOptions(t, map[string]string{
		"FARLAN_NAME": "env", "FARLAN_LISTEN": ":2", "FARLAN_BOOTSTRAP": aSeed + "  " + aSeed,
	}, file, "--name", "flag")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "flag" || c.Listen.Port() != 2 || !c.Dual || len(c.Bootstrap) != 2 {
		t.Errorf("got %+v", c)
	}
	if c.Uplink != (reserve.Access{Up: 10 * reserve.Mbit, Down: 10 * reserve.Mbit}) {
		t.Errorf("uplink %v", c.Uplink)
	}
	if !slices.Equal(c.Taps, []tapConfig{{Name: "a0"}, {Name: "b0", Bridge: "br0", MTU: 1400}}) || !slices.Equal(c.LANs, []lanConfig{{Interface: "eth0", Trust: overlay.TrustAll}}) {
		t.Errorf("ports %+v %+v", c.Taps, c.LANs)
	}
}

func TestBeaconSwitch(t *testing.T) {
	for _, c := range []struct {
		environ map[string]string
		file    string
		args    []string
		want    bool
	}{
		{nil, "", nil, true},
		{nil, "beacon: \"off\"\n", nil, false},
		{nil, "beacon: off\n", nil, false}, // as people write it
		{map[string]string{"FARLAN_BEACON": "off"}, "beacon: on\n", nil, false},
		{map[string]string{"FARLAN_BEACON": "off"}, "", []string{"--beacon", "on"}, true},
		{nil, "", []string{"--beacon=off"}, false},
	} {
		got, err := parseOptions(t, c.environ, c.file, c.args...)
		if err != nil || got.Beacon != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestPortMappingSwitch(t *testing.T) {
	for _, c := range []struct {
		environ map[string]string
		file    string
		args    []string
		want    bool
	}{
		{nil, "", nil, false},
		{nil, "port-mapping: on\n", nil, true},
		{map[string]string{"FARLAN_PORT_MAPPING": "on"}, "", nil, true},
		{map[string]string{"FARLAN_PORT_MAPPING": "on"}, "", []string{"--port-mapping=off"}, false},
	} {
		got, err := parseOptions(t, c.environ, c.file, c.args...)
		if err != nil || got.MapPort != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestListenForms(t *testing.T) {
	for in, want := range map[string]netip.AddrPort{
		":4747":              netip.MustParseAddrPort("0.0.0.0:4747"),
		"192.0.2.1:1":        netip.MustParseAddrPort("192.0.2.1:1"),
		"[2001:db8::1]:4747": netip.MustParseAddrPort("[2001:db8::1]:4747"),
		"0.0.0.0:0":          netip.MustParseAddrPort("0.0.0.0:0"),
	} {
		c, err := parseOptions(t, nil, "", "--listen", in)
		if err != nil || c.Listen != want || c.Dual != strings.HasPrefix(in, ":") {
			t.Errorf("--listen %s: %+v, %v", in, c, err)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		args []string
		want []string // in the error, all of them
	}{
		"unknown key":         {file: "listn: x\n", want: []string{`unknown key "listn"`, "line 1", `"listen"`}},
		"every problem":       {args: []string{"--listen", "nowhere", "--uplink", "fast", "--tap", ""}, want: []string{"--listen", "--uplink", "--tap"}},
		"bad multiaddr":       {args: []string{"--bootstrap", "192.0.2.1:4747"}, want: []string{`--bootstrap "192.0.2.1:4747"`, "/ip4/"}},
		"not a list":          {file: "name: [a, b]\n", want: []string{`key "name"`}},
		"not YAML":            {file: "name: [\n", want: []string{"configuration"}},
		"config in config":    {file: "config: x\n", want: []string{`unknown key "config"`}},
		"name with space":     {args: []string{"--name", "a b"}, want: []string{"--name"}},
		"interface too long":  {args: []string{"--tap", "abcdefghijklmnop"}, want: []string{"abcdefghijklmnop"}},
		"unknown port option": {args: []string{"--tap", "a0,vlan=3"}, want: []string{`"vlan=3"`, "bridge="}},
		"twice":               {args: []string{"--tap", "a0", "--lan", "a0"}, want: []string{`"a0" is given twice`}},
		"socket twice":        {args: []string{"--qemu", "/tmp/q", "--qemu", "/tmp/q"}, want: []string{`"/tmp/q" is given twice`}},
		"socket nowhere":      {args: []string{"--qemu", ",tag=3"}, want: []string{"--qemu", "is empty", "/run/farlan"}},
		"socket's path":       {args: []string{"--qemu", "/" + strings.Repeat("x", 200)}, want: []string{"--qemu", "longer than the 107 bytes"}},
		"socket's option":     {args: []string{"--qemu", "/tmp/q,bridge=br0"}, want: []string{`"bridge=br0"`, "tag="}},
		"VLAN 0":              {args: []string{"--tap", "a0,tag=0"}, want: []string{`--tap "a0,tag=0"`, `"0" is not`, "1 to 4094"}},
		"VLAN 4095":           {args: []string{"--qemu", "/tmp/q,trunks=1-4095"}, want: []string{"--qemu", `"4095" is not`}},
		"no number":           {args: []string{"--lan", "a0,tag=blue"}, want: []string{"--lan", `"blue" is not`}},
		"backward":            {args: []string{"--tap", "a0,trunks=3+9-7"}, want: []string{`"9-7"`, "ends before"}},
		"nothing between":     {args: []string{"--tap", "a0,trunks=3++4"}, want: []string{`"" is not`}},
		"VLAN both ways":      {args: []string{"--tap", "a0,tag=5,trunks=3-7"}, want: []string{"VLAN 5 can't be both"}},
		"level":               {args: []string{"--log-level", "loud"}, want: []string{"--log-level"}},
		"beacon":              {args: []string{"--beacon", "sometimes"}, want: []string{`--beacon "sometimes"`, "on or off"}},
		"port mapping":        {args: []string{"--port-mapping", "maybe"}, want: []string{`--port-mapping "maybe"`, "on or off"}},
		"mtu":                 {args: []string{"--tap", "a0,mtu=90000"}, want: []string{"mtu"}},
		"advertise nowhere":   {args: []string{"--advertise", "0.0.0.0:4747"}, want: []string{"--advertise"}},
		"advertise many":      {args: []string{"--advertise", "224.0.0.1"}, want: []string{"--advertise"}},
		"listen to many":      {args: []string{"--listen", "224.0.0.1:1"}, want: []string{"--listen"}},
		"advertise":           {args: []string{"--advertise", "home.example"}, want: []string{"--advertise"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseOptions(t, nil, c.file, c.args...)
			if err == nil {
				t.Fatal("no error")
			}
			var b strings.Builder
			printError(&b, err)
			for _, want := range c.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("the error doesn't say %q:\n%s", want, b.String())
				}
			}
			if code := exitCode(split(err)[0]); code != exitUsage {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

func TestExampleConfigIsUnderstood(t *testing.T) {
	b, err := os.ReadFile("../packaging/farlan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "# "); ok && (strings.HasPrefix(rest, "  - ") || isKey(rest)) {
			line = strings.ReplaceAll(rest, "12D3Koo…", aSeed[strings.LastIndex(aSeed, "/")+1:])
		}
		file.WriteString(line)
	}
	c, err := parseOptions(t, nil, file.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, file.String())
	}
	if len(c.Bootstrap) != 1 || len(c.Taps) != 2 || len(c.LANs) != 1 || len(c.QEMUs) != 1 || len(c.DHCPFrom) != 1 || c.Uplink.Up == 0 || c.Beacon || !c.MapPort {
		t.Errorf("got %+v", c)
	}
}

func isKey(line string) bool {
	key, _, ok := strings.Cut(line, ":")
	o := &options{}
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	o.addFlags(flags)
	return ok && flags.Lookup(key) != nil
}

func FuzzConfigFile(f *testing.F) {
	f.Add("name: x\ntap: [a0]\n")
	f.Add("listn: {}\n")
	f.Fuzz(func(t *testing.T, file string) {
		_, _ = parseOptions(t, nil, file) // must not panic
	})
}
