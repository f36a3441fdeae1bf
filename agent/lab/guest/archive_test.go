package guest

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// TestArchive has cpio read what archive writes.
func TestArchive(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("SKIPPED: needs cpio")
	}
	var packed bytes.Buffer
	a := newArchive(&packed)
	a.dir("bin")
	for _, content := range []string{"", "1", "four", "fives"} {
		a.file("bin/"+content+"x", []byte(content))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	unzip, err := gzip.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(unzip)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-i", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(raw)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, content := range []string{"", "1", "four", "fives"} {
		b, err := os.ReadFile(filepath.Join(dir, "bin", content+"x"))
		if err != nil || string(b) != content {
			t.Errorf("%q was read back as %q, %v", content, b, err)
		}
	}
}

func TestModuleOrder(t *testing.T) {
	deps := `kernel/net/failover.ko.xz:
kernel/virtio.ko: kernel/ring.ko
kernel/ring.ko:
kernel/virtio-net.ko: kernel/net/failover.ko.xz kernel/virtio.ko kernel/ring.ko
`
	got := moduleOrder(deps, []string{"virtio_net", "af_packet", "virtio"})
	want := []string{"kernel/ring.ko", "kernel/virtio.ko", "kernel/net/failover.ko.xz", "kernel/virtio-net.ko"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
