// Package guest boots virtual machines for labs and tests: Debian's kernel for the cloud and
// a RAM disk with busybox, in QEMU with software emulation, so that neither a processor's
// support nor root is needed. A guest is ready about three seconds after its start, and then
// does what it is told, as any machine on a LAN that one logs in to.
//
// Nothing is safe for concurrent use.
package guest
