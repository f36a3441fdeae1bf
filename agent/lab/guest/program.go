package guest

import (
	"fmt"
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

// packages names the Debian package of each program that a lab or a guest uses.
var packages = map[string]string{
	"busybox":            "busybox-static",
	"dnsmasq":            "dnsmasq-base",
	"ping":               "iputils-ping",
	"qemu-system-x86_64": "qemu-system-x86",
	"depmod":             "kmod",
	"xz":                 "xz-utils",
}

// FindProgram returns where a program is that labs and guests use; the error says which
// Debian package has it.
func FindProgram(name string) (string, error) {
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
