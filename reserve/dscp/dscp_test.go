//go:build linux

package dscp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"farlan/overlay"
	"farlan/overlay/nstest"
	"farlan/reserve"
)

func TestCodePoints(t *testing.T) {
	for s, want := range map[string]CodePoint{"EF": 46, "ef": 46, "AF41": 34, "cs5": 40, "Voice-Admit": 44, "7": 7, "0x2e": 46} {
		if c, err := ParseCodePoint(s); err != nil || c != want || c.TOS() != uint8(want)*4 {
			t.Errorf("%q: %d, %v, want %d", s, c, err, want)
		}
	}
	for _, s := range []string{"", "0", "64", "-1", "AF44", "EF ", "256"} {
		if c, err := ParseCodePoint(s); err == nil {
			t.Errorf("%q is %v, want an error", s, c)
		}
	}
	for c := CodePoint(1); c < 64; c++ {
		if again, err := ParseCodePoint(c.String()); err != nil || again != c {
			t.Errorf("%d is called %v, which is %d, %v", c, c, again, err)
		}
	}
}

func FuzzParseCodePoint(f *testing.F) {
	f.Add("AF41")
	f.Add("0x2e")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := ParseCodePoint(s); err == nil && (c < 1 || c > 63) {
			t.Fatalf("%q is %d", s, c)
		}
	})
}

const soon = overlay.Instant(1e15)

func want(n byte) reserve.Want {
	w := reserve.Want{Rate: 60 * reserve.Mbit, End: soon, Via: netip.MustParseAddrPort("192.0.2.2:1")}
	w.ID.Reservation[0] = n
	return w
}

func TestLife(t *testing.T) {
	d, ctx := New(0), t.Context()
	g, err := d.Hold(ctx, want(1))
	if err != nil || g.State != reserve.Held || g.Kind != reserve.Priority || g.Mark != (reserve.Mark{}) || g.Handle == "" {
		t.Fatalf("hold: %+v, %v", g, err)
	}
	for _, step := range []struct {
		verb  func(context.Context, reserve.Grant) (reserve.Grant, error)
		state reserve.State
		mark  reserve.Mark
		err   error
	}{
		{d.Activate, 0, reserve.Mark{}, reserve.ErrRefused},
		{d.Commit, reserve.Committed, reserve.Mark{}, nil},
		{d.Activate, reserve.Active, reserve.Mark{TOS: 34 << 2, Priority: 6}, nil},
		{d.Commit, reserve.Active, reserve.Mark{TOS: 34 << 2, Priority: 6}, nil},
		{d.Status, reserve.Active, reserve.Mark{TOS: 34 << 2, Priority: 6}, nil},
		{d.Deactivate, reserve.Committed, reserve.Mark{}, nil},
	} {
		got, err := step.verb(ctx, g)
		if !errors.Is(err, step.err) || got.State != step.state || got.Mark != step.mark || got.Up != (got.State == reserve.Active) {
			t.Errorf("%+v, %v; want %v with %+v, %v", got, err, step.state, step.mark, step.err)
		}
	}
	if g, err = d.Modify(ctx, g, 5); err != nil || g.Rate != 5 {
		t.Errorf("modify: %+v, %v", g, err)
	}
	if g, err = d.Renew(ctx, g, 3*soon); err != nil || g.End != 3*soon {
		t.Errorf("renew: %+v, %v", g, err)
	}
	if all, err := d.List(ctx); err != nil || len(all) != 1 || all[0] != g {
		t.Errorf("list: %+v, %v", all, err)
	}
	if _, err := d.Usage(ctx, g); !errors.Is(err, reserve.ErrUnsupported) {
		t.Errorf("usage: %v", err)
	}
	if err := d.Release(ctx, g); err != nil {
		t.Error(err)
	}
	if err := d.Release(ctx, g); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("released again: %v", err)
	}
}

func TestEndsAndRefusals(t *testing.T) {
	d, ctx := New(46), t.Context()
	g, _ := d.Hold(ctx, want(1))
	if err := d.Reap(ctx, soon-1); err != nil || len(d.grants) != 1 {
		t.Errorf("before its end: %d are left", len(d.grants))
	}
	if err := d.Reap(ctx, soon); err != nil || len(d.grants) != 0 {
		t.Errorf("at its end: %d are left", len(d.grants))
	}
	if _, err := d.Status(ctx, g); !errors.Is(err, reserve.ErrGone) {
		t.Errorf("after its end: %v", err)
	}
	circuit, guarantee, late, none, no := want(2), want(3), want(4), want(5), want(0)
	circuit.Kind, guarantee.Kind, late.End, none.Rate = reserve.Circuit, reserve.Guarantee, soon, 0
	circuit.End, guarantee.End, none.End, no.End = 2*soon, 2*soon, 2*soon, 2*soon
	for _, c := range []struct {
		w   reserve.Want
		err error
	}{{circuit, reserve.ErrUnsupported}, {guarantee, reserve.ErrUnsupported}, {late, reserve.ErrRefused}, {none, reserve.ErrRefused}, {no, reserve.ErrRefused}} {
		_, err := d.Hold(ctx, c.w)
		if _, offered := d.Offer(ctx, c.w); !errors.Is(err, c.err) || !errors.Is(offered, c.err) {
			t.Errorf("%+v: %v, want %v", c.w, err, c.err)
		}
	}
	for i := range maxGrants + 1 {
		w := want(6)
		w.ID.Reservation[1], w.ID.Reservation[2], w.End = byte(i), byte(i>>8), 2*soon
		if _, err := d.Hold(ctx, w); (i == maxGrants) != errors.Is(err, reserve.ErrFull) {
			t.Fatalf("number %d: %v", i, err)
		}
	}
}

// The kernel sees the code point in all that leaves by a marked socket, and in nothing else,
// over IPv4 and IPv6, though the sender has no rights.
func TestKernelSeesTheMark(t *testing.T) {
	here, there := nstest.New(t), nstest.New(t)
	here.Veth("eth0", there, "eth0")
	for at, n := range map[*nstest.Namespace]string{here: "1", there: "2"} {
		at.IP("addr add 192.0.2." + n + "/24 dev eth0")
		at.IP("addr add 2001:db8::" + n + "/64 dev eth0 nodad")
	}
	there.Run(`nft -f - <<EOF
table inet t {
	chain in {
		type filter hook input priority 0;
		udp dport 4747 ip dscp af41 counter comment "marked4"
		udp dport 4747 ip dscp cs0 counter comment "plain4"
		udp dport 4747 ip6 dscp af41 counter comment "marked6"
		udp dport 4747 ip6 dscp cs0 counter comment "plain6"
	}
}
EOF`)
	d := New(0)
	g, err := d.Hold(t.Context(), want(1))
	if err == nil {
		_, err = d.Commit(t.Context(), g)
	}
	if err == nil {
		g, err = d.Activate(t.Context(), g)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"192.0.2.2:4747", "[2001:db8::2]:4747"} {
		here.Do(func() {
			defer powerless(t)()
			for range 10 {
				send(t, to, &g.Mark)
			}
			for range 3 {
				send(t, to, nil)
			}
		})
	}
	for rule, n := range map[string]string{"marked4": "10", "plain4": "3", "marked6": "10", "plain6": "3"} {
		want, got := regexp.MustCompile(`counter packets `+n+` bytes \d+ comment "`+rule+`"`), ""
		for range 500 { // the first ones wait until the neighbour's address is known
			if got = there.Run("nft list ruleset"); want.MatchString(got) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if !want.MatchString(got) {
			t.Errorf("%s isn't counted %s times:\n%s", rule, n, got)
		}
	}
}

// powerless takes the thread's rights until what it returns is called.
func powerless(t *testing.T) func() {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
	none := had
	none[0].Effective, none[1].Effective = 0, 0
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Capset(&header, &had[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// send sends a datagram by a socket with a mark.
func send(t *testing.T, to string, m *reserve.Mark) {
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if m != nil {
		raw, _ := c.(*net.UDPConn).SyscallConn()
		if err := raw.Control(func(fd uintptr) { err = set(int(fd), *m) }); err != nil {
			t.Error(err)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}

func set(fd int, m reserve.Mark) error {
	level, option := syscall.IPPROTO_IP, syscall.IP_TOS
	if domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); domain == unix.AF_INET6 {
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_TCLASS
	}
	if err := unix.SetsockoptInt(fd, level, option, int(m.TOS)); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, int(m.Priority))
}
