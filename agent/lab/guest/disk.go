package guest

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript []byte

// modules are what a guest needs beyond its kernel; what is built into the kernel is no
// module and is not missed.
var modules = []string{"virtio_pci", "virtio_net", "af_packet", "8021q"}

// BuildInitrd writes a RAM disk for guests to a file: busybox, the modules with what they
// depend on, init.sh, and start, a script for busybox's shell that init.sh runs once the
// interfaces are up; nil is none.
func BuildInitrd(ctx context.Context, k Kernel, start []byte, to string) error {
	program, err := FindProgram("busybox")
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	deps, err := os.ReadFile(filepath.Join(k.Modules, "modules.dep"))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	a := newArchive(&out)
	for _, dir := range []string{"bin", "dev", "modules"} {
		a.dir(dir)
	}
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	a.file("bin/busybox", busybox)
	a.file("init", initScript)
	a.file("start", start)
	var order strings.Builder
	for _, name := range moduleOrder(string(deps), modules) {
		content, err := readModule(ctx, filepath.Join(k.Modules, name))
		if err != nil {
			return fmt.Errorf("guest module %s: %w", name, err)
		}
		base := strings.TrimSuffix(path.Base(name), ".xz")
		a.file("modules/"+base, content)
		fmt.Fprintln(&order, base)
	}
	a.file("modules/order", []byte(order.String()))
	if err := a.Close(); err != nil {
		return fmt.Errorf("guest initrd: %w", err)
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

// moduleOrder returns the files of the modules and of what they depend on, in
// the order in which to load them. deps is modules.dep: lines of a file, a
// colon, and all files that it needs, those needed first last.
func moduleOrder(deps string, modules []string) []string {
	needs := make(map[string][]string) // by module name, itself first
	lines := bufio.NewScanner(strings.NewReader(deps))
	for lines.Scan() {
		file, rest, _ := strings.Cut(lines.Text(), ":")
		name, _, _ := strings.Cut(path.Base(file), ".")
		needs[strings.ReplaceAll(name, "-", "_")] = append([]string{file}, strings.Fields(rest)...)
	}
	var order []string
	seen := make(map[string]bool)
	for _, m := range modules {
		for _, file := range slices.Backward(needs[m]) {
			if !seen[file] {
				seen[file] = true
				order = append(order, file)
			}
		}
	}
	return order
}

// readModule returns a module's content, unpacked.
func readModule(ctx context.Context, file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".xz") {
		return os.ReadFile(file)
	}
	program, err := FindProgram("xz")
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, program, "-dc", file).Output()
}
