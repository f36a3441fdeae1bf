//go:build linux

package tap

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/internal/vnet"
)

// offloads are the sets of what the system may leave to us, best first:
// super-frames of UDP are known since Linux 6.2.
var offloads = [...]int{baseOffloads | unix.TUN_F_USO4 | unix.TUN_F_USO6, baseOffloads}

const baseOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN

// attach opens the TAP, and makes it if device is nil.
func (p *Port) attach(c Config, device *netlink.Tuntap) error {
	p.made = device == nil
	if !c.Plain {
		err := p.attachOffload(c, device)
		if err == nil || hopeless(err) {
			return err
		}
		_ = p.detach()
	}
	return p.attachWater(device)
}

// hopeless says whether water would fail as well.
func hopeless(err error) bool {
	return slices.ContainsFunc([]error{unix.EBUSY, unix.EPERM, unix.EACCES, unix.ENOENT, unix.ENODEV, unix.ENXIO},
		func(e error) bool { return errors.Is(err, e) })
}

// attachOffload opens the TAP's queues for frames with headers.
func (p *Port) attachOffload(c Config, device *netlink.Tuntap) error {
	flags, queues := uint16(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR), max(c.Queues, 1)
	switch {
	case device == nil && queues > 1, device != nil && multiQueue(device):
		flags |= unix.IFF_MULTI_QUEUE
	case device != nil:
		queues = 1
	}
	for i := range queues {
		f := flags
		if i == 0 && device == nil {
			f |= unix.IFF_TUN_EXCL // if another process is faster, it has the interface
		}
		fd, err := openTun(p.name, f)
		if err != nil {
			return err
		}
		p.fds = append(p.fds, fd)
	}
	fd := p.fds[0]
	size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnet.Len)
	}
	if err != nil {
		return explain(p.name, "cannot set the length of its headers", err)
	}
	// The interface keeps both: who opens it next may not know of them.
	p.undo = append(p.undo,
		func() error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, int(int32(size))) },
		func() error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0) })
	for _, o := range offloads {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, o); err == nil {
			p.offload, p.uso = true, o&unix.TUN_F_USO4 != 0
			return nil
		}
	}
	return explain(p.name, "cannot have super-frames", err)
}

// attachWater opens the TAP for plain frames.
func (p *Port) attachWater(device *netlink.Tuntap) error {
	c := water.Config{DeviceType: water.TAP}
	c.Name = p.name
	flags := uint16(0)
	if device != nil {
		c.Persist = !device.NonPersist
		c.MultiQueue = multiQueue(device)
		flags = unix.IFF_TAP | unix.IFF_NO_PI | uint16(device.Flags&netlink.TUNTAP_MULTI_QUEUE)
	}
	probe, err := openTun(p.name, flags)
	if err != nil {
		return err
	}
	_ = unix.Close(probe)
	syscall.ForkLock.RLock() // no child gets water's descriptor
	defer syscall.ForkLock.RUnlock()
	w, err := water.New(c)
	if err != nil {
		return explain(p.name, "cannot make it", err)
	}
	defer func() { _ = w.Close() }() // takes it from the runtime's poller
	f, ok := w.ReadWriteCloser.(*os.File)
	if !ok {
		return explain(p.name, "is no file", errors.ErrUnsupported)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return explain(p.name, "cannot use its file", err)
	}
	fd := -1
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); e != nil || err != nil {
		return explain(p.name, "cannot use its file", errors.Join(e, err))
	}
	p.fds = append(p.fds, fd)
	// Who had the interface before may have died with super-frames allowed.
	return explain(p.name, "cannot refuse super-frames", unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0))
}

// openTun opens a queue of the TAP called name; without flags it only sees that
// TAPs can be opened.
func openTun(name string, flags uint16) (fd int, err error) {
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return -1, &overlay.PortError{
			Port: name, What: "the system has no TAPs", Err: fmt.Errorf("/dev/net/tun: %w", err),
			Advice: "load the kernel's module with 'modprobe tun'; a container must be given /dev/net/tun",
		}
	}
	if err != nil {
		return -1, explain(name, "cannot open /dev/net/tun", err)
	}
	if flags == 0 {
		return fd, nil
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, explain(name, "cannot attach to it", err)
	}
	return fd, nil
}

// detach gives an interface that was there before back what was changed, and
// closes the descriptors.
func (p *Port) detach() error {
	var errs []error
	if !p.made {
		for _, f := range slices.Backward(p.undo) {
			err := f()
			if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EBADFD) { // removed meanwhile
				errs = append(errs, explain(p.name, "cannot put it back as it was", err))
			}
		}
	}
	for _, fd := range p.fds {
		errs = append(errs, unix.Close(fd))
	}
	p.undo, p.fds = nil, nil
	return errors.Join(errs...)
}
