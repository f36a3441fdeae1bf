package bench

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A flood is UDP with 64 bytes of payload at a given rate, from a process in
// one namespace to a process in the other. iperf3's own loop is slower than the
// tunnels here, so these use sendmmsg and recvmmsg.
const (
	floodPort    = 5402
	floodPayload = 64
	floodTime    = 600 * time.Millisecond
	// floodGrace is how much later than the sender's end packets still count.
	// Longer, and a deep queue would pass for a high rate.
	floodGrace   = 50 * time.Millisecond
	sendBurst    = 8
	receiveBatch = 32
	receiveQueue = 8 << 20 // bytes: the receiving program is not what is measured
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// messages returns n empty messages of size bytes for sendmmsg and recvmmsg.
func messages(n, size int) []mmsghdr {
	m := make([]mmsghdr, n)
	for i := range m {
		b := make([]byte, size)
		iov := &unix.Iovec{Base: &b[0]}
		iov.SetLen(size)
		m[i].header.Iov = iov
		m[i].header.SetIovlen(1)
	}
	return m
}

// transfer is sendmmsg or recvmmsg, and returns the number of messages.
func transfer(call uintptr, fd int, m []mmsghdr, flags uintptr) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// passing says whether a system call's error is no reason to give up.
func passing(err error) bool {
	return errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS)
}

// small returns the highest rate to addr without loss, in thousands a second.
func (h *hosts) small(addr string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	best, err := climb(func(rate float64) (step, error) { return h.flood(self, addr, rate) })
	if err != nil {
		return 0, fmt.Errorf("flood: %w", err)
	}
	return best / 1000, nil
}

// flood runs both ends at one rate. The receiver says when it is ready, and
// counts until its standard input ends.
func (h *hosts) flood(self, addr string, rate float64) (step, error) {
	receiver := h.helper("receive", 1, self)
	in, err := receiver.StdinPipe()
	if err != nil {
		return step{}, err
	}
	out, err := receiver.StdoutPipe()
	if err != nil {
		return step{}, err
	}
	if err := receiver.Start(); err != nil {
		return step{}, err
	}
	defer func() { _ = receiver.Process.Kill(); _ = receiver.Wait() }()
	var ready string
	if _, err := fmt.Fscanln(out, &ready); err != nil {
		return step{}, fmt.Errorf("receiver: %w", err)
	}
	text, err := h.helper("send", 0, self, addr, fmt.Sprint(rate)).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, tail(string(exit.Stderr)))
		}
		return step{}, fmt.Errorf("sender: %w", err)
	}
	time.Sleep(floodGrace)
	in.Close()
	var s step
	if _, err := fmt.Fscan(strings.NewReader(string(text)), &s.sent); err != nil {
		return step{}, fmt.Errorf("sender: %w", err)
	}
	var received int
	if _, err := fmt.Fscan(out, &received); err != nil {
		return step{}, fmt.Errorf("receiver: %w", err)
	}
	s.received = float64(received) / floodTime.Seconds()
	return s, nil
}

// helper is this program in another role and in a namespace. One thread of Go
// code is enough for it, and leaves the cores to the tunnel.
func (h *hosts) helper(as string, side int, args ...string) *exec.Cmd {
	c := h.command(side, args...)
	c.Env = append(os.Environ(), role+"="+as, "GOMAXPROCS=1")
	return c
}

// sendMain is the program of the sending end: ADDR RATE. It prints the rate at
// which it really sent.
func sendMain(args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("send: want ADDR and RATE, got %q", args)
	}
	addr, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	var rate float64
	if _, err := fmt.Sscan(args[1], &rate); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: floodPort, Addr: addr.As4()}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// Sleeps are to end when they should: by default Linux adds 50 µs, and
	// that would make longer bursts. The setting is the thread's.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	sent, err := send(fd, rate)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	_, err = fmt.Fprintln(out, float64(sent)/floodTime.Seconds())
	return err
}

// send sends bursts for floodTime, each when the packets before it are due, and
// returns the number of packets.
func send(fd int, rate float64) (sent int, err error) {
	burst := messages(sendBurst, floodPayload)
	for start := time.Now(); ; {
		passed := time.Since(start)
		if passed >= floodTime {
			return sent, nil
		}
		due := time.Duration(float64(sent) / rate * float64(time.Second))
		if wait := due - passed; wait > 0 {
			pause := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&pause, nil) // cut short by a signal: the loop looks again
			continue
		}
		n, err := transfer(unix.SYS_SENDMMSG, fd, burst, 0)
		if err != nil && !passing(err) {
			return sent, err
		}
		sent += n
	}
}

// receiveMain is the program of the receiving end. It prints "ready", and when
// in has ended the number of packets that came.
func receiveMain(in io.Reader, out io.Writer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveQueue); err != nil {
		return fmt.Errorf("receive buffer: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 5000}); err != nil {
		return fmt.Errorf("receive timeout: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: floodPort}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	fmt.Fprintln(out, "ready")
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, in)
		ended.Store(true)
	}()
	received := 0
	for batch := messages(receiveBatch, 2048); !ended.Load(); {
		n, err := transfer(unix.SYS_RECVMMSG, fd, batch, unix.MSG_WAITFORONE)
		if err != nil && !passing(err) {
			return fmt.Errorf("receive: %w", err)
		}
		received += n
	}
	_, err = fmt.Fprintln(out, received)
	return err
}
