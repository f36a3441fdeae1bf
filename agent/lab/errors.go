package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// hintError is an error that says what to do about it.
type hintError struct {
	error
	hint string
}

// Hint returns what to do, in one line.
func (e hintError) Hint() string { return e.hint }

// Unwrap returns the error without the hint.
func (e hintError) Unwrap() error { return e.error }

// usageError is a wrong use of a command.
type usageError struct{ error }

// ExitCode returns the program's exit code.
func (usageError) ExitCode() int { return 2 }

// Unwrap returns the error itself.
func (e usageError) Unwrap() error { return e.error }

// packages names the Debian package of each program that a lab uses.
var packages = map[string]string{
	"busybox":            "busybox-static",
	"dnsmasq":            "dnsmasq-base",
	"ping":               "iputils-ping",
	"qemu-system-x86_64": "qemu-system-x86",
	"depmod":             "kmod",
	"xz":                 "xz-utils",
}

// findProgram returns where a program of packages is.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	// Not everybody's PATH holds the folders of the system's programs.
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", hintError{
		fmt.Errorf("%s is not on this machine", name),
		"install it: apt-get install " + packages[name],
	}
}

// checkMachine reports whether this process may build a lab here, and whether
// the programs are there that it needs.
func checkMachine(programs ...string) error {
	if os.Geteuid() != 0 {
		return hintError{errors.New("a lab needs root: it makes network namespaces"), "run it with sudo, or in a container with all capabilities"}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return hintError{fmt.Errorf("a lab needs TUN interfaces: %w", err), "run: modprobe tun"}
	}
	for _, p := range programs {
		if _, err := findProgram(p); err != nil {
			return err
		}
	}
	return nil
}
