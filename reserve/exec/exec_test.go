package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/reservetest"
)

const example = "../../packaging/reserve-example"

var (
	agent = overlay.AgentID{0xa}
	known = []error{reserve.ErrFull, reserve.ErrRefused, reserve.ErrUnsupported, reserve.ErrGone, reserve.ErrForeign, reserve.ErrUnreachable}
)

// means returns the Err value that an error wraps; nil says that the outcome is open.
func means(err error) error {
	for _, k := range known {
		if errors.Is(err, k) {
			return k
		}
	}
	return nil
}

func exampleDriver(t *testing.T, file string) *Driver {
	t.Helper()
	program, err := filepath.Abs(example)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), Config{Program: program, Args: []string{file, "30000"}, Agent: agent})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConform(t *testing.T) {
	t.Parallel()
	d := exampleDriver(t, filepath.Join(t.TempDir(), "grants"))
	// It is called some sixty times: without what Python loads for others' packages.
	d.cfg.Program, d.cfg.Args = "/usr/bin/python3", append([]string{"-ISs", d.cfg.Program}, d.cfg.Args...)
	reservetest.Conform(t, reservetest.Case{Driver: d, Agent: agent, Rate: 10 * reserve.Mbit})
}

// What the example says of each thing arrives as it said it.
func TestExample(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "grants")
	d, ctx := exampleDriver(t, file), t.Context()
	if c := d.Caps(); c.Name != "exec" || !c.External || !c.Modify || c.Setup != 1 || c.Most != 30*reserve.Mbit || len(c.Kinds) != 1 || c.Kinds[0] != reserve.Guarantee {
		t.Errorf("Caps: %+v", c)
	}
	w := wantFor(1)
	w.Rate = 25 * reserve.Mbit
	g, err := d.Hold(ctx, w)
	if err != nil || g.Handle != "row 1" || g.Rate != w.Rate || g.End != w.End {
		t.Fatalf("Hold: %+v, %v", g, err)
	}
	var r reserve.Refusal
	if _, err := d.Hold(ctx, wantFor(2)); !errors.As(err, &r) || r.Free != 5*reserve.Mbit {
		t.Errorf("full: %v", err)
	}
	if _, err := d.Activate(ctx, g); !errors.Is(err, reserve.ErrRefused) || !strings.Contains(err.Error(), "isn't committed") {
		t.Errorf("activated what isn't committed: %v", err)
	}
	w.Kind, w.ID.Segment = reserve.Circuit, 9
	if _, err := d.Hold(ctx, w); !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("a circuit: %v", err)
	}
	if _, err := d.Usage(ctx, g); !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("usage: %v", err)
	}
	other := exampleDriver(t, file)
	other.cfg.Agent[1] = 1
	if all, err := other.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("another agent lists %v, %v", all, err)
	}
	if err := d.Release(ctx, g); err != nil {
		t.Error(err)
	}
}

func wantFor(n byte) reserve.Want {
	id := reserve.ID{Reservation: [16]byte{n}, Segment: n}
	return reserve.Want{ID: id, Kind: reserve.Guarantee, Rate: 10 * reserve.Mbit, From: agent, End: overlay.Instant(time.Now().Add(time.Minute).UnixNano())}
}

// script returns a driver that runs the lines for all verbs but caps. ID stands for the id that
// is asked about.
func script(t *testing.T, lines string) *Driver {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	text := `read request
case "$request" in *'"verb":"caps"'*) echo '{"schema_version":1,"caps":{"kinds":["guarantee"],"modify":true}}'; exit;; esac
` + strings.ReplaceAll(lines, "ID", wantFor(1).ID.String())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(t.Context(), Config{Program: "/bin/sh", Args: []string{file}, Agent: agent, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const good = `echo '{"schema_version":1,"grant":{"id":"ID","kind":"guarantee","state":"held","rate_kbit":10000}}'
`

// What a script may do wrong, and what becomes of it.
func TestScripts(t *testing.T) {
	t.Parallel()
	grant := func(fields string) string {
		return `printf '%s' '{"schema_version":1,"grant":{"id":"ID","kind":"guarantee","state":"held",` + fields + `}}'`
	}
	for _, c := range []struct {
		name, lines string
		want        error  // nil: the outcome is open
		text        string // in the error
	}{
		{"exit 1", good + "exit 1", nil, "code 1"},
		{"exit 2", "exit 2", nil, "code 2"},
		{"exit 3", "echo no room >&2; exit 3", reserve.ErrFull, "no room"},
		{"exit 3 with nonsense", `echo '{"schema_version":1,"free_kbit":-4}'; exit 3`, reserve.ErrFull, ""},
		{"exit 4", "exit 4", reserve.ErrRefused, ""},
		{"exit 5", "exit 5", reserve.ErrUnsupported, ""},
		{"exit 6", "exit 6", reserve.ErrGone, ""},
		{"exit 7", "echo the operator has it >&2; exit 7", reserve.ErrForeign, "the operator has it"},
		{"exit 8", "exit 8", reserve.ErrUnreachable, ""},
		{"exit 127", "no-such-program", nil, "code 127"},
		{"dies by a signal", good + "kill -SEGV $$", nil, "signal"},
		{"prints nothing", "", nil, "JSON"},
		{"prints no JSON", "echo granted", nil, "invalid"},
		{"prints more behind", good + "echo bye", nil, "after"},
		{"prints an array", "echo '[]'", nil, "array"},
		{"another schema", `echo '{"schema_version":2,"grant":{"id":"ID","state":"held"}}'`, nil, "schema_version 2"},
		{"no grant", `echo '{"schema_version":1}'`, nil, "no grant"},
		{"another id", `echo '{"schema_version":1,"grant":{"id":"00000000000000000000000000000000-1","kind":"circuit","state":"held","rate_kbit":10000}}'`, nil, "asked about"},
		{"no id", `echo '{"schema_version":1,"grant":{"state":"held"}}'`, nil, "id"},
		{"an unknown state", `echo '{"schema_version":1,"grant":{"id":"ID","state":"fine"}}'`, nil, "fine"},
		{"an unknown kind", `echo '{"schema_version":1,"grant":{"id":"ID","kind":"gold","state":"held"}}'`, nil, "gold"},
		{"no kind", `echo '{"schema_version":1,"grant":{"id":"ID","state":"held"}}'`, nil, "kind"},
		{"a negative rate", grant(`"rate_kbit":-1`), nil, "rate"},
		{"an endless rate", grant(`"rate_kbit":1e30`), nil, "rate_kbit"},
		{"an end that is none", grant(`"end":"soon"`), nil, "soon"},
		{"a path as the device", grant(`"mark":{"device":"../eth0"}`), nil, "device"},
		{"a long device", grant(`"mark":{"device":"0123456789abcdef"}`), nil, "device"},
		{"an address that is none", grant(`"mark":{"source":"1.2.3"}`), nil, "1.2.3"},
		{"ECN bits", grant(`"mark":{"tos":3}`), nil, "ECN"},
		{"a handle with a newline", grant(`"handle":"a\nb"`), nil, "handle"},
		{"a long handle", grant(`"handle":"` + strings.Repeat("x", 257) + `"`), nil, "handle"},
		{"100 MB", "head -c 100000000 /dev/zero", nil, "more than"},
		{"an endless answer", "yes", nil, "more than"},
		{"terminal sequences", `printf '\033[2Jno\007' >&2; exit 4`, reserve.ErrRefused, "[2Jno"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := script(t, c.lines)
			_, err := d.Hold(t.Context(), wantFor(1))
			if err == nil || !errors.Is(means(err), c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want one that means %v and says %q", err, c.want, c.text)
			}
			if err != nil && (len(err.Error()) > 2*maxReason || strings.ContainsAny(err.Error(), "\x1b\x07")) {
				t.Errorf("what people would see: %q", err)
			}
		})
	}
}

// A hold that grants what wasn't asked for is given back, or its outcome is open.
func TestMoreThanAsked(t *testing.T) {
	t.Parallel()
	more := `case "$request" in
*'"verb":"hold"'*) echo '{"schema_version":1,"grant":{"id":"ID","kind":"guarantee","state":"held","rate_kbit":5000000,"handle":"h"}}';;
*'"verb":"release"'*'"handle":"h"'*) %s;;
*) exit 1;;
esac`
	for _, c := range []struct {
		release string
		want    error
	}{{"exit 0", reserve.ErrRefused}, {"exit 6", reserve.ErrRefused}, {"exit 1", nil}, {"exit 8", nil}} {
		d := script(t, fmt.Sprintf(more, c.release))
		if _, err := d.Hold(t.Context(), wantFor(1)); err == nil || !errors.Is(means(err), c.want) {
			t.Errorf("release: %s: %v, want %v", c.release, err, c.want)
		}
	}
	weaker := script(t, `case "$request" in *'"verb":"hold"'*) echo '{"schema_version":1,"grant":{"id":"ID","kind":"priority","state":"held","rate_kbit":1}}';; esac`)
	if _, err := weaker.Hold(t.Context(), wantFor(1)); !errors.Is(err, reserve.ErrRefused) {
		t.Errorf("a weaker kind: %v", err)
	}
	d := script(t, good)
	g := reserve.Grant{ID: wantFor(1).ID}
	if _, err := d.Modify(t.Context(), g, 5*reserve.Mbit); err == nil || means(err) != nil {
		t.Errorf("modify to more than asked: %v", err)
	}
}

// dead says whether a process that wrote its number into the file has ended.
func dead(t *testing.T, file string) bool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("the script didn't get that far: %v", err)
	}
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func soonDead(t *testing.T, file string) {
	t.Helper()
	for range 200 {
		if dead(t, file) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the process of %s still runs", file)
}

// A program that hangs is killed with all that it started.
func TestHangs(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	d := script(t, "trap '' TERM INT HUP; sleep 1000 & echo $! >"+file+"; echo waiting >&2; "+good+"wait; sleep 1000")
	d.cfg.Timeout = 500 * time.Millisecond
	_, err := d.Hold(t.Context(), wantFor(1))
	if err == nil || means(err) != nil || !strings.Contains(err.Error(), "time ran out: waiting") {
		t.Errorf("hung: %v", err)
	}
	soonDead(t, file)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	d.cfg.Timeout = time.Minute
	if err := d.Release(ctx, reserve.Grant{ID: wantFor(1).ID}); err == nil || means(err) != nil {
		t.Errorf("cancelled: %v", err)
	}
	soonDead(t, file)
}

// What a program leaves behind doesn't hold the agent up, even if it keeps standard output.
func TestLeavesChildren(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	d := script(t, "sleep 1000 & echo $! >"+file+"\n"+good)
	d.cfg.Timeout = 20 * time.Second
	began := time.Now()
	if g, err := d.Hold(t.Context(), wantFor(1)); err != nil || g.State != reserve.Held {
		t.Errorf("a child is left: %+v, %v", g, err)
	}
	soonDead(t, file)
	d = script(t, "setsid sleep 5 &\n"+good) // not in the group any more
	if g, err := d.Hold(t.Context(), wantFor(1)); err != nil || g.State != reserve.Held {
		t.Errorf("a child left the group: %+v, %v", g, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("waited %v for children", took)
	}
}

func TestTalksTooMuch(t *testing.T) {
	t.Parallel()
	d := script(t, "head -c 10000000 /dev/zero | tr '\\0' e >&2\n"+good)
	if g, err := d.Hold(t.Context(), wantFor(1)); err != nil || g.State != reserve.Held {
		t.Errorf("10 MB on standard error: %+v, %v", g, err)
	}
}

// The program gets nothing of the agent's environment, and not its folder.
func TestEnvironment(t *testing.T) {
	t.Setenv("FARLAN_SECRET", "x")
	d := script(t, `echo $(env | cut -d= -f1 | grep -v ^_ | sort) in $(pwd) >&2; exit 4`)
	d.cfg.Env = []string{"TOKEN_FILE=/etc/x"}
	if _, err := d.Hold(t.Context(), wantFor(1)); err == nil || !strings.Contains(err.Error(), ": LC_ALL PATH PWD TOKEN_FILE in /") {
		t.Errorf("the program's surroundings: %v", err)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	open := filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.WriteFile(open, nil, 0o600), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "no agent"},
		{Config{Program: "script", Agent: agent}, "from the root"},
		{Config{Program: "/bin/true", Agent: agent, Timeout: time.Hour}, "time-out"},
		{Config{Program: "/bin/true", Agent: agent}, "answer is wrong"},
		{Config{Program: "/no/such", Agent: agent}, "no such file"},
		{Config{Program: "/etc/passwd", Agent: agent}, "permission denied"},
		{Config{Program: open, Agent: agent}, "anybody"},
	} {
		if _, err := New(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want %q", c.cfg, err, c.want)
		}
	}
	if _, err := New(t.Context(), Config{Program: "/no/such", Agent: agent}); !errors.Is(err, reserve.ErrUnreachable) {
		t.Errorf("no program: %v", err)
	}
}

// The end is the agent's to say.
func TestEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"", `,"end":"2199-01-01T00:00:00Z"`} {
		w := wantFor(1)
		d := script(t, `echo '{"schema_version":1,"grant":{"id":"ID","kind":"guarantee","state":"held","rate_kbit":10000`+end+`}}'`)
		if g, err := d.Hold(t.Context(), w); err != nil || g.End != w.End {
			t.Errorf("%q: %v, %v, want %v", end, g.End.Time(), err, w.End.Time())
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"schema_version":1,"grant":{"id":"01000000000000000000000000000000-1","kind":"circuit","state":"active","rate_kbit":10000,"end":"2026-01-02T03:04:05Z","handle":"x","up":true,"mark":{"tos":184,"priority":65538,"device":"eth0.5","source":"192.0.2.1","peer":"2001:db8::1"},"reason":"y"}}`))
	f.Add([]byte(`{"schema_version":1,"grants":[],"caps":{"kinds":["circuit"]},"usage":{"bytes":1},"offer":{"kind":"priority","rate_kbit":1,"free_kbit":2}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parse(b)
		if err != nil {
			return
		}
		_, _ = a.caps()
		_, _ = a.usage()
		_, _ = a.grants()
		if o, err := a.offer(wantFor(1)); err == nil && (o.Rate < 0 || o.Rate > wantFor(1).Rate) {
			t.Errorf("an offer of %v", o.Rate)
		}
		if a.Grant == nil {
			return
		}
		g, err := a.Grant.read()
		if err != nil {
			return
		}
		again, err := grantOf(g).read()
		if err != nil || again != g {
			t.Errorf("read as %+v, written and read as %+v, %v", g, again, err)
		}
	})
}
