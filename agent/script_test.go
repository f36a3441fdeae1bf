package agent

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	lightMain()
	reservedMain()
	testscript.Main(m, map[string]func(){
		"farlan": func() { os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// The command line's contract, as scripts: testdata/script.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Nothing of the machine's own agent, if it has one.
			e.Setenv("FARLAN_SOCKET", e.WorkDir+"/farlan.sock")
			e.Setenv("FARLAN_STATE_DIR", e.WorkDir+"/state")
			e.Setenv("FARLAN_KEY_FILE", e.WorkDir+"/network.key")
			e.Setenv("FARLAN_CONFIG", e.WorkDir+"/farlan.yaml")
			e.Setenv("FARLAN_LISTEN", "127.0.0.1:0")
			// Under the race detector each command would wait for a second before it ends.
			e.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
			return os.WriteFile(e.WorkDir+"/farlan.yaml", nil, 0o600)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits},
	})
}

// exits runs a command and checks its exit code: exits CODE COMMAND….
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG…]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}
