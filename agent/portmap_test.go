package agent

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Addresses that routers and programs take for public ones; they are in namespaces only.
const (
	routerOutside = "30.99.0.254"
	hostOutside   = "30.99.0.2"
)

// behindRouter makes r the home router of a, with a NAT that lets in answers only, and
// puts b outside.
func behindRouter(t *testing.T) *sites {
	t.Helper()
	s := newSites(t)
	s.host("ip -n " + s.r + " addr flush dev ub")
	s.host("ip -n " + s.r + " addr add " + routerOutside + "/24 dev ub")
	s.host("ip -n " + s.b + " addr flush dev u")
	s.host("ip -n " + s.b + " addr add " + hostOutside + "/24 dev u")
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte(`table inet filter {
	chain maps { }
	chain forward {
		type filter hook forward priority 0
		jump maps
		iifname ub ct state established,related accept
		iifname ub drop
	}
	chain before { }
	chain after { }
	chain prerouting {
		type nat hook prerouting priority -100
		jump before
	}
	chain postrouting {
		type nat hook postrouting priority 100
		jump after
		oifname ub masquerade
	}
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.in(s.r, "nft -f "+rules)
	return s
}

// upnpd runs Debian's miniupnpd on the router until it is killed, or the test ends.
func (s *sites) upnpd(pmp, upnp string) *exec.Cmd {
	s.t.Helper()
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(`ext_ifname=ub
listening_ip=ua
port=0
enable_natpmp=`+pmp+`
enable_upnp=`+upnp+`
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000000
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=maps
upnp_nat_chain=before
upnp_nat_postrouting_chain=after
allow 1-65535 0.0.0.0/0 1-65535
`), 0o600); err != nil {
		s.t.Fatal(err)
	}
	said := new(bytes.Buffer)
	c := exec.Command("ip", "netns", "exec", s.r, "miniupnpd", "-d", "-f", filepath.Join(dir, "conf"), "-P", filepath.Join(dir, "pid"))
	c.Stdout, c.Stderr = said, said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = c.Process.Kill()
		if _ = c.Wait(); s.t.Failed() {
			s.t.Logf("miniupnpd said:\n%s", said.Bytes()[max(said.Len()-3000, 0):])
		}
	})
	return c
}

// maps returns what the router hands on, one line each.
func (s *sites) maps() (all []string) {
	s.t.Helper()
	for line := range strings.Lines(s.in(s.r, "nft list chain inet filter before")) {
		if strings.Contains(line, "dnat") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

// forget makes the router forget what it hands on, as one that starts again does.
func (s *sites) forget() {
	s.t.Helper()
	s.in(s.r, "nft flush chain inet filter maps")
	s.in(s.r, "nft flush chain inet filter before")
}

// mapped waits until an agent says of the router that it does, or doesn't, what it
// should, and with these words.
func (d *process) mapped(ok bool, words ...string) time.Duration {
	d.t.Helper()
	return eventually(d.t, 15*time.Second, func() error {
		h, err := d.health("port-mapping")
		if err != nil || h.OK != ok {
			return fmt.Errorf("%+v, %w", h, err)
		}
		for _, w := range words {
			if !strings.Contains(h.Detail, w) {
				return fmt.Errorf("%q, want %q", h.Detail, w)
			}
		}
		return nil
	})
}

// takePort makes the router hand on a port to another host behind it, by NAT-PMP
// (RFC 6886 § 3.3).
func (s *sites) takePort(port uint16) {
	s.t.Helper()
	s.host("ip -n " + s.a + " addr add 10.77.1.9/24 dev u")
	s.within(s.a, func() error {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 77, 1, 9)}, &net.UDPAddr{IP: net.IPv4(10, 77, 1, 254), Port: 5351})
		if err != nil {
			return err
		}
		defer c.Close()
		for network := range byte(2) {
			b := []byte{0, 1 + network, 0, 0, byte(port >> 8), byte(port), byte(port >> 8), byte(port), 0, 0, 14, 16}
			if _, err = c.Write(b); err != nil {
				return err
			}
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			answer := make([]byte, 64)
			if n, err := c.Read(answer); err != nil || n != 16 || answer[3] != 0 {
				return fmt.Errorf("the router answers %x, %w", answer[:n], err)
			}
		}
		return nil
	})
}

// An agent behind a real router's NAT asks it for the port, and whoever is outside
// joins by that address, which the agent tells; when another host has the port, or the
// router has forgotten, it gets it or another one, and at the end nothing is left.
func TestPortMapping(t *testing.T) {
	for _, by := range []string{"NAT-PMP", "UPnP"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			s := behindRouter(t)
			run := func() *exec.Cmd {
				if by == "UPnP" {
					return s.upnpd("no", "yes")
				}
				return s.upnpd("yes", "no")
			}
			key := newKeyFile(t)
			a := startAgentIn(t, s.a, key, "a", "--listen", ":4747", "--tap", "t", "--port-mapping", "on")
			a.mapped(false, "10.77.1.254", "NAT-PMP", "UPnP") // there is no such server yet
			server := run()
			s.host("ip -n " + s.a + " addr add 10.77.1.8/24 dev u") // a change of the host asks again
			took := a.mapped(true, routerOutside+":4747", "UDP and TCP", by)
			t.Logf("mapped within %v: %q", took, s.maps())

			v, err := a.status()
			if err != nil {
				t.Fatal(err)
			}
			seed := "/ip4/" + routerOutside + "/udp/4747/quic-v1/p2p/" + v.ID
			if !strings.Contains(strings.Join(v.Listen, " "), seed) {
				t.Errorf("doesn't tell that it is at %s: %v", seed, v.Listen)
			}
			b := startAgentIn(t, s.b, key, "b", "--listen", ":4747", "--tap", "t", "--bootstrap", seed)
			s.agents = [2]*process{a, b}
			b.bootstrap()
			s.address(0)
			s.address(1)
			took = eventually(t, 15*time.Second, func() error { return s.try(s.b, "ping -c1 -W1 -q 10.78.0.1") })
			t.Logf("who is outside joined by it after %v", took)
			if by == "NAT-PMP" {
				eventually(t, 20*time.Second, func() error {
					v := s.doctor(t, 0)
					reached, mapped := v.of("reachable"), v.of("port-mapping")
					if reached.Level != levelOK || !strings.Contains(reached.Detail, "TCP from b, and UDP from a port that this host never sent to, from b") ||
						mapped.Level != levelOK || !strings.Contains(mapped.Detail, routerOutside+":4747") {
						return fmt.Errorf("%+v, %+v", reached, mapped)
					}
					return nil
				})
			}

			// The router starts again and has forgotten: it is asked again.
			_ = server.Process.Kill()
			_ = server.Wait()
			s.forget()
			run()
			s.host("ip -n " + s.a + " addr del 10.77.1.8/24 dev u")
			eventually(t, 15*time.Second, func() error {
				if all := s.maps(); len(all) != 2 {
					return fmt.Errorf("the router hands on %q", all)
				}
				return nil
			})
			if err := a.stop(); err != nil {
				t.Error(err)
			}
			if all := s.maps(); len(all) != 0 {
				t.Errorf("the agent has ended, and the router hands on %q", all)
			}
			if by == "NAT-PMP" {
				s.takePort(4747)
				a.start()
				a.mapped(true, routerOutside+":47", by)
				if h, err := a.health("port-mapping"); err != nil || strings.Contains(h.Detail, ":4747,") {
					t.Errorf("has another host's port: %+v, %v", h, err)
				}
			}
		})
	}
	t.Run("hostile", testHostileRouter)
}

// A router that floods, lies, and lets wait costs an agent nothing but the mapping.
func testHostileRouter(t *testing.T) {
	t.Parallel()
	s := behindRouter(t)
	web := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("<root>"))
		<-r.Context().Done()
	})}
	t.Cleanup(func() { _ = web.Close() })
	s.within(s.r, func() error {
		listener, err := net.Listen("tcp4", "10.77.1.254:0")
		if err != nil {
			return err
		}
		go func() { _ = web.Serve(listener) }()
		device, err := net.InterfaceByName("ua")
		if err != nil {
			return err
		}
		group, err := net.ListenMulticastUDP("udp4", device, &net.UDPAddr{IP: net.IPv4(239, 255, 255, 250), Port: 1900})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = group.Close() })
		from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 77, 1, 254)})
		if err != nil {
			return err
		}
		go func() {
			for b := make([]byte, 2000); ; {
				_, to, err := group.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				for i := range 20_000 {
					_, _ = from.WriteToUDPAddrPort(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nUSN: %d\r\nLOCATION: http://%v/%d\r\n\r\n", i, listener.Addr(), i), to)
				}
			}
		}()
		pmp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 77, 1, 254), Port: 5351})
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = pmp.Close() })
		go func() {
			for b := make([]byte, 2000); ; {
				_, to, err := pmp.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				for i := range 1000 { // of every length and kind
					_, _ = pmp.WriteToUDPAddrPort(append([]byte{0, byte(i), 0, 0}, make([]byte, i)...), to)
				}
			}
		}()
		return nil
	})
	a := startAgentIn(t, s.a, newKeyFile(t), "a", "--listen", ":4747", "--port-mapping", "on")
	a.bootstrap()
	before, err := a.reading()
	if err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 40*time.Second, func() error {
		h, err := a.health("port-mapping")
		if err != nil || h.OK {
			return fmt.Errorf("%+v, %w", h, err)
		}
		return nil
	})
	h, _ := a.health("port-mapping")
	after, err := a.reading()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("given up after %v: %s; took %+v before, %+v after", took, h.Detail, before, after)
	if after.memoryKB > before.memoryKB+20_000 || after.goroutines > before.goroutines+5 || after.descriptors > before.descriptors+5 {
		t.Errorf("grew from %+v to %+v", before, after)
	}
	if strings.ContainsAny(h.Detail, "\n\x1b") || len(h.Detail) > 1000 {
		t.Errorf("not for people: %q", h.Detail)
	}
	start := time.Now()
	if err := a.stop(); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("it ended after %v: %v", time.Since(start), err)
	}
	for _, l := range []string{"panic", "DATA RACE"} {
		if strings.Contains(a.said(), l) {
			t.Errorf("the agent said:\n%s", a.said())
		}
	}
}
