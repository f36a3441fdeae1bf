package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The peers are as Debian packages them, with the MTU that is their convention:
// tinc and OpenVPN 1500, fastd 1406, n2n 1400, wireguard-go 1420.

func (h *hosts) tinc() error {
	conf := func(side int) string { return filepath.Join(h.dir, fmt.Sprint("tinc", side)) }
	host := func(owner, of int) string { return fmt.Sprintf("tinc%d/hosts/n%d", owner, of) }
	err := h.both(func(side int) error {
		_, err := h.write(fmt.Sprintf("tinc%d/tinc.conf", side), fmt.Sprintf(
			"Name = n%d\nMode = switch\nAddressFamily = ipv4\nInterface = tinc\nConnectTo = n%d\n", side, 1-side))
		if err != nil {
			return err
		}
		own, err := h.write(host(side, side), fmt.Sprintf("Address = %s\nPort = 655\n", underlay(side)))
		if err != nil {
			return err
		}
		if _, err = run("tincd", "-c", conf(side), "-K2048"); err != nil { // adds the public key to the host's file
			return err
		}
		text, err := os.ReadFile(own)
		if err != nil {
			return err
		}
		_, err = h.write(host(1-side, side), string(text))
		return err
	})
	if err != nil {
		return err
	}
	return h.both(func(side int) error {
		if err := h.daemon(side, "tincd", "-c", conf(side), "-D", "--pidfile", conf(side)+".pid"); err != nil {
			return err
		}
		return h.up(side, "tinc", overlay(side))
	})
}

// n2n is version 1.3, Debian 12's: Twofish and nothing else. It finds its
// interface's address with ifconfig, and the peer through the supernode, whose
// processor time does not count: once the edges know each other it idles.
func (h *hosts) n2n() error {
	if _, err := h.spawn(0, "supernode", "-l", "7654"); err != nil {
		return err
	}
	return h.both(func(side int) error {
		err := h.daemon(side, "edge", "-d", "n2n", "-a", overlay(side), "-s", "255.255.255.0", "-c", "bench", "-k", "not a secret",
			"-l", underlay(0)+":7654", "-m", fmt.Sprintf("02:aa:00:00:00:%02d", side+1))
		if err != nil {
			return err
		}
		return h.up(side, "n2n", overlay(side))
	})
}

// fastdMethod is the faster of Salsa20 with UMAC and AES-128-GCM here.
const fastdMethod = "salsa2012+umac"

func (h *hosts) fastd() error {
	var secret, public [2]string
	err := h.both(func(side int) error {
		text, err := run("fastd", "--generate-key", "--machine-readable")
		if err != nil {
			return err
		}
		secret[side] = strings.TrimSpace(text)
		file, err := h.write(fmt.Sprintf("fastd%d.key", side), fmt.Sprintf("secret %q;\n", secret[side]))
		if err != nil {
			return err
		}
		text, err = run("fastd", "-c", file, "--show-key", "--machine-readable")
		public[side] = strings.TrimSpace(text)
		return err
	})
	if err != nil {
		return err
	}
	return h.both(func(side int) error {
		conf, err := h.write(fmt.Sprintf("fastd%d.conf", side), fmt.Sprintf(
			"mode tap; interface \"fastd\"; method %q; mtu 1406; bind %s:10000; secret %q;\npeer \"other\" { key %q; remote %s:10000; }\n",
			fastdMethod, underlay(side), secret[side], public[1-side], underlay(1-side)))
		if err != nil {
			return err
		}
		if err := h.daemon(side, "fastd", "-c", conf); err != nil {
			return err
		}
		return h.up(side, "fastd", overlay(side))
	})
}

func (h *hosts) openvpn() error {
	file := func(side int, kind string) string {
		return filepath.Join(h.dir, fmt.Sprintf("openvpn%d.%s", side, kind))
	}
	var prints [2]string
	err := h.both(func(side int) error {
		_, err := run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
			"-keyout", file(side, "key"), "-out", file(side, "crt"), "-days", "30", "-subj", fmt.Sprint("/CN=n", side))
		if err != nil {
			return err
		}
		text, err := run("openssl", "x509", "-in", file(side, "crt"), "-noout", "-fingerprint", "-sha256")
		_, prints[side], _ = strings.Cut(strings.TrimSpace(text), "=")
		return err
	})
	if err != nil {
		return err
	}
	return h.both(func(side int) error {
		role := [][]string{{"--tls-server", "--dh", "none"}, {"--tls-client"}}[side]
		err := h.daemon(side, append([]string{
			"openvpn", "--dev", "ovpn", "--dev-type", "tap", "--proto", "udp", "--local", underlay(side), "--lport", "1194",
			"--remote", underlay(1 - side), "1194", "--cert", file(side, "crt"), "--key", file(side, "key"),
			"--peer-fingerprint", prints[1-side], "--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM", "--disable-dco",
		}, role...)...)
		if err != nil {
			return err
		}
		return h.up(side, "ovpn", overlay(side))
	})
}

func (h *hosts) wireguard() error {
	name := func(side int) string { return wireguardName(os.Getpid(), side) }
	var key, public [2]string
	err := h.both(func(side int) error {
		text, err := run("wg", "genkey")
		if err != nil {
			return err
		}
		if key[side], err = h.write(fmt.Sprintf("wg%d.key", side), text); err != nil {
			return err
		}
		text, err = run("sh", "-c", "wg pubkey <"+key[side])
		public[side] = strings.TrimSpace(text)
		return err
	})
	if err != nil {
		return err
	}
	return h.both(func(side int) error {
		socket := "/var/run/wireguard/" + name(side) + ".sock"
		os.Remove(socket) // of the cell before
		if err := h.daemon(side, "wireguard-go", "-f", name(side)); err != nil {
			return err
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat(socket); err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("there is no %s", socket)
			}
		}
		_, err := h.in(side, "wg", "set", name(side), "listen-port", "51820", "private-key", key[side],
			"peer", public[1-side], "allowed-ips", "10.78.0.0/24", "endpoint", underlay(1-side)+":51820")
		if err != nil {
			return err
		}
		return h.up(side, name(side), overlay(side))
	})
}
