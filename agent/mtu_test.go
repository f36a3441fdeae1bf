package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// narrow makes every packet longer than mtu vanish at the router, without a word
// to its sender: a black hole. 0 lets all pass.
func (s *sites) narrow(mtu int) {
	s.t.Helper()
	rule := ""
	if mtu > 0 {
		rule = fmt.Sprintf("ip length > %d", mtu)
	}
	s.drop("narrow", rule)
}

// Frames of full size cross paths of any MTU, tagged ones too, whether the path
// says so or swallows what is too long; the agents find the MTU, and find it
// again when it shrinks.
func TestEveryFrameFits(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.in(s.r, "ethtool -K ua tso off gso off tx-udp-segmentation off")
	s.in(s.r, "ethtool -K ub tso off gso off tx-udp-segmentation off")
	for _, ns := range []string{s.a, s.b} {
		s.in(ns, "ethtool -K u tso off gso off tx-udp-segmentation off")
	}
	s.join(t, "")
	for _, mtu := range []int{1500, 1420, 1280} {
		s.narrow(mtu)
		start := time.Now()
		took := eventually(t, 6*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q -s 1472 -M do 10.78.0.2") })
		settled := eventually(t, 6*time.Second, func() error {
			if a, b := s.mtu(0), s.mtu(1); a > mtu || b > mtu || a < mtu-8 || b < mtu-8 {
				return fmt.Errorf("%d and %d", a, b)
			}
			return nil
		})
		t.Logf("MTU %d: full frames cross after %v; found after %v more: %d", mtu, took, settled, s.mtu(0))
		for _, size := range []string{"1472", "1400", "1200", "56"} {
			if err := s.try(s.a, "ping -c5 -i0.05 -W1 -q -s "+size+" -M do 10.78.0.2"); err != nil {
				t.Errorf("MTU %d: %v", mtu, err)
			}
		}
		if err := s.tagged(1518); err != nil {
			t.Errorf("MTU %d: a tagged frame: %v", mtu, err)
		}
		if limit := 8 * time.Second; time.Since(start) > limit {
			t.Errorf("all that took %v", time.Since(start))
		}
	}
}

// TCP whose segments don't fit proposes smaller ones on the way: in IPv4 and
// IPv6, in both directions; then a segment is one datagram.
func TestSegmentsAreClamped(t *testing.T) {
	s := newSites(t)
	s.join(t, "")
	eventually(t, 5*time.Second, func() error {
		if s.mtu(0) != 1500 || s.mtu(1) != 1500 {
			return fmt.Errorf("%d and %d", s.mtu(0), s.mtu(1))
		}
		return nil
	})
	s.background(s.b, "iperf3 -s -p 5300")
	for addr, want := range map[string]int{"10.78.0.2": 1472 - 45 - 54, "fd78::2": 1472 - 45 - 74} {
		var out string
		eventually(t, 5*time.Second, func() error {
			args := "iperf3 -J -p 5300 -n 1M -c " + addr
			if err := s.try(s.a, args); err != nil {
				return err
			}
			out = s.in(s.a, args)
			return nil
		})
		_, after, _ := strings.Cut(out, `"tcp_mss_default":`)
		number, _, _ := strings.Cut(after, ",")
		// What the socket says is without the 12 bytes of its time stamps.
		if got, err := strconv.Atoi(strings.TrimSpace(number)); err != nil || got != want-12 {
			t.Errorf("%s: segments of %s, want %d", addr, number, want-12)
		}
	}
}

// Jumbo frames cross a path that isn't jumbo.
func TestJumbo(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.join(t, ",mtu=9000")
	for _, size := range []string{"8972", "4000", "1473"} {
		if err := s.try(s.a, "ping -c5 -i0.05 -W1 -q -s "+size+" -M do 10.78.0.2"); err != nil {
			t.Error(err)
		}
	}
	s.transfer(t, "10.78.0.2", 40<<20)
	s.transfer(t, "[fd78::2]", 10<<20)
}

// Super-frames and frames without checksums meet an agent that has neither, and
// the other way round.
func TestOffloadMeetsNone(t *testing.T) {
	t.Parallel()
	s := newSites(t)
	s.join(t, "")
	for i, a := range s.agents[1].args {
		if strings.HasPrefix(a, "t,") || a == "t" {
			s.agents[1].args[i] = "t,offload=off"
		}
	}
	s.restart(1)
	eventually(t, 15*time.Second, func() error { return s.try(s.a, "ping -c1 -W1 -q 10.78.0.2") })
	for i, want := range []bool{true, false} {
		v, err := s.agents[i].status()
		if err != nil || len(v.Ports) != 1 || v.Ports[0].Offload != want {
			t.Fatalf("agent %d: %+v, %v", i, v.Ports, err)
		}
	}
	s.transfer(t, "10.78.0.2", 40<<20)
	s.transfer(t, "[fd78::2]", 10<<20)
}

// tagged sends a frame of n bytes with a VLAN tag from a to b.
func (s *sites) tagged(n int) error {
	var from, to int
	bindTo := func(fd *int) func() error {
		return func() (err error) {
			link, err := net.InterfaceByName("t")
			if err != nil {
				return err
			}
			if *fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x0300); err != nil { // ETH_P_ALL
				return err
			}
			return errors.Join(
				unix.SetsockoptTimeval(*fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}),
				unix.SetsockoptInt(*fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
				unix.Bind(*fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: link.Index}))
		}
	}
	s.within(s.a, bindTo(&from))
	defer unix.Close(from)
	s.within(s.b, bindTo(&to))
	defer unix.Close(to)
	f := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(f)
	copy(f, "\xff\xff\xff\xff\xff\xff\x02farln\x81\x00\x00\x07\x88\xb5") // to all, VLAN 7, an experiment's protocol
	if _, err := unix.Write(from, f); err != nil {
		return err
	}
	want := append(append([]byte(nil), f[:12]...), f[16:]...) // the kernel takes the tag off, and tells of it
	buf, oob := make([]byte, 2000), make([]byte, 200)
	for {
		got, control, _, _, err := unix.Recvmsg(to, buf, oob, 0)
		if err != nil {
			return err
		}
		if bytes.Equal(buf[:got], want) && bytes.Contains(oob[:control], []byte{7, 0, 0x00, 0x81}) {
			return nil
		}
	}
}

// transfer sends n bytes by TCP from a to b and back, and compares what came.
func (s *sites) transfer(t *testing.T, host string, n int) {
	t.Helper()
	var listener net.Listener
	s.within(s.b, func() (err error) { listener, err = net.Listen("tcp", host+":0"); return err })
	defer listener.Close()
	echoed := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(c, c)
			_ = c.Close()
		}
		echoed <- err
	}()
	var c net.Conn
	s.within(s.a, func() (err error) { c, err = net.Dial("tcp", listener.Addr().String()); return err })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	sent, got := sha256.New(), sha256.New()
	go func() {
		_, _ = io.CopyN(io.MultiWriter(c, sent), rand.NewChaCha8([32]byte{1}), int64(n))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	m, err := io.Copy(got, c)
	if err := errors.Join(err, c.Close(), <-echoed); err != nil || m != int64(n) || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%d of %d bytes to %s and back, or not the same: %v", m, n, host, err)
	}
}

// within calls f in a namespace, for the sockets that it makes.
func (s *sites) within(ns string, f func() error) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		there, err2 := os.Open("/run/netns/" + ns)
		if err = errors.Join(err, err2); err == nil {
			if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
			// The thread must live: agents that it has started die with it.
			err = errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET), own.Close(), there.Close())
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}
