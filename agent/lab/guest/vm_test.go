package guest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// machine returns a machine for tests.
func machine(t *testing.T) Machine {
	t.Helper()
	if os.Getenv("FARLAN_CACHE") == "" {
		cache, err := filepath.Abs("../../../.cache")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("FARLAN_CACHE", cache)
	}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := FetchKernel(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd.gz")
	if err := BuildInitrd(t.Context(), k, []byte("say \"start $(argument test)\"\n"), initrd); err != nil {
		t.Fatal(err)
	}
	return Machine{Kernel: k, Initrd: initrd, Append: "test=7"}
}

// TestGuest has a guest, and its QEMU, do what they are told.
func TestGuest(t *testing.T) {
	if _, err := FindProgram("qemu-system-x86_64"); err != nil && os.Getenv("FARLAN_NO_SKIP") != "1" {
		t.Skip("SKIPPED: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m := machine(t)
	m.Devices = NIC("hubport,hubid=0,id=lan", "02:00:00:00:00:01")
	a := start(ctx, t, m)
	if err := a.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(a.Log("console.log"), says+"start 7") {
		t.Errorf("its script didn't run: %s", a.Log("console.log"))
	}
	tell := func(v *VM, line, want string) {
		t.Helper()
		if got, err := v.Run(ctx, line); err != nil || got != want {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	tell(a, "x=5; cat /sys/class/net/eth0/address; printf \"$x\"", "02:00:00:00:00:01\n5")
	if _, err := a.Run(ctx, "echo so; exit 3"); err == nil || !strings.Contains(err.Error(), "exit code 3: so") {
		t.Errorf("a command that fails: %v", err)
	}
	var is struct {
		Status string `json:"status"`
	}
	if err := a.Control.Do(ctx, "query-status", nil, &is); err != nil || is.Status != "running" {
		t.Errorf("QEMU says that it is %q, %v", is.Status, err)
	}
	if err := a.Control.Do(ctx, "nonsense", nil, nil); err == nil {
		t.Error("QEMU knows a command nonsense")
	}
	since := time.Now()
	if err := a.Control.Do(ctx, "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Control.Await(ctx, "STOP", since); err != nil {
		t.Error(err)
	}
}

func start(ctx context.Context, t *testing.T, m Machine) *VM {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest-*") // t.TempDir's path may be too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v, err := Start(ctx, m, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}
