package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kernelPackage stands for Debian's newest kernel for virtual machines; it
// depends on the package that holds it.
const kernelPackage = "linux-image-cloud-amd64"

// A Kernel is what a guest boots.
type Kernel struct {
	Image   string // the file to boot
	Modules string // the folder with its modules
}

// CacheDir returns where fetched files are kept: FARLAN_CACHE, or farlan's part
// of the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("FARLAN_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w", err)
	}
	return filepath.Join(dir, "farlan"), nil
}

// FetchKernel returns a kernel for guests from the folder cache. If there is
// none, it is fetched from Debian's packages; nothing is installed.
func FetchKernel(ctx context.Context, cache string) (Kernel, error) {
	dir := filepath.Join(cache, "guest-kernel")
	if k, err := findKernel(dir); err == nil {
		return k, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("guest kernel: %w", err)
	}
	scratch, err := os.MkdirTemp(cache, "guest-kernel-*")
	if err != nil {
		return Kernel{}, fmt.Errorf("guest kernel: %w", err)
	}
	defer os.RemoveAll(scratch)
	if err := fetchKernel(ctx, scratch); err != nil {
		return Kernel{}, fmt.Errorf("guest kernel: %w", err)
	}
	// Whole at once; another lab may have been quicker, which is as good.
	if err := os.Rename(filepath.Join(scratch, "root"), dir); err != nil && !errors.Is(err, os.ErrExist) {
		return Kernel{}, fmt.Errorf("guest kernel: %w", err)
	}
	return findKernel(dir)
}

// findKernel returns the kernel that was unpacked into dir.
func findKernel(dir string) (Kernel, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	modules, _ := filepath.Glob(filepath.Join(dir, "lib", "modules", "*", "modules.dep"))
	if len(images) != 1 || len(modules) != 1 {
		return Kernel{}, fmt.Errorf("no kernel in %s", dir)
	}
	return Kernel{Image: images[0], Modules: filepath.Dir(modules[0])}, nil
}

var kernelName = regexp.MustCompile(`Depends: (linux-image-[0-9]\S+)`)

// fetchKernel downloads the kernel's package into dir and unpacks it into
// dir/root, with the list of what its modules depend on.
func fetchKernel(ctx context.Context, dir string) error {
	depends, err := runTool(ctx, dir, "apt-cache", "depends", kernelPackage)
	m := kernelName.FindStringSubmatch(depends)
	if err == nil && m == nil {
		err = fmt.Errorf("apt knows no package %s", kernelPackage)
	}
	if err == nil {
		_, err = runTool(ctx, dir, "apt-get", "download", m[1])
	}
	if err != nil {
		return hintError{err, "a Debian machine with package lists is needed: apt-get update"}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	if len(files) != 1 {
		return fmt.Errorf("apt-get left %d packages in %s", len(files), dir)
	}
	root := filepath.Join(dir, "root")
	if _, err = runTool(ctx, dir, "dpkg-deb", "-x", files[0], root); err != nil {
		return err
	}
	version := strings.TrimPrefix(m[1], "linux-image-")
	depmod, err := FindProgram("depmod")
	if err != nil {
		return err
	}
	_, err = runTool(ctx, dir, depmod, "-b", root, version)
	return err
}

// runTool runs a program in dir and returns its standard output.
func runTool(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var notes strings.Builder
	cmd.Stderr = &notes
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(notes.String())
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(name), err, said[strings.LastIndexByte(said, '\n')+1:])
	}
	return string(out), nil
}
