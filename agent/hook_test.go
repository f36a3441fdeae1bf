package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// guestXML is of what libvirt gives its hooks.
const guestXML = `<domain type='kvm' id='3'>
  <name>web</name>
  <devices>
    <interface type='bridge'>
      <mac address='52:54:00:0a:0b:0c'/>
      <source bridge='br0'/>
      <target dev='vnet3'/>
    </interface>
    <interface type='bridge'>
      <mac address="52:54:00:0A:0B:0D"/>
    </interface>
  </devices>
</domain>
`

// What libvirt calls where a guest comes to and where it leaves has farlan prepare or abort at
// the right moments; libvirt's work is never stopped, nor the guest changed.
func TestLibvirtHook(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		calls []string
		want  []string // of each MAC
	}{
		{"it comes", []string{"migrate begin -", "prepare begin -", "start begin -", "started begin -"}, []string{"vm prepare --lease 1h"}},
		{"it fails to", []string{"migrate begin -", "prepare begin -", "start begin -", "stopped end -", "release end failed"}, []string{"vm prepare --lease 1h", "vm abort"}},
		{"it has left", []string{"stopped end -", "release end migrated"}, nil},
		{"it has left, older", []string{"stopped end -", "release end -"}, nil},
		{"it starts and ends here", []string{"prepare begin -", "start begin -", "started begin -", "stopped end -", "release end shutdown"}, []string{"vm abort"}},
		{"libvirt restarts", []string{"reconnect begin -"}, nil},
	} {
		var want []string
		for _, w := range c.want {
			for _, mac := range []string{"52:54:00:0a:0b:0c", "52:54:00:0A:0B:0D"} {
				want = append(want, w+" "+mac+" --timeout 2s")
			}
		}
		for _, exit := range []string{"0", "1", "5"} {
			if got := runHook(t, exit, c.calls); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("%s: farlan is told %q, want %q", c.what, got, want)
			}
		}
	}
}

// runHook makes calls of the hook, with a farlan that fails by an exit code, and returns what
// that was told.
func runHook(t *testing.T, exit string, calls []string) (told []string) {
	t.Helper()
	dir := t.TempDir()
	fake := "#!/bin/sh\necho \"$@\" >>" + dir + "/told\necho noise; echo noise >&2\nexit " + exit + "\n"
	if err := os.WriteFile(filepath.Join(dir, "farlan"), []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, call := range calls {
		cmd := exec.Command("sh", append([]string{"../packaging/libvirt-hook", "web"}, strings.Fields(call)...)...)
		cmd.Env = []string{"FARLAN=" + dir + "/farlan", "PATH=" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(guestXML)
		if out, err := cmd.Output(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v, %q", call, err, out)
		}
	}
	b, _ := os.ReadFile(filepath.Join(dir, "told"))
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}
