package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A tunnel is one way from side 0 to side 1.
type tunnel struct {
	name   string // as in FARLAN_PEERS
	label  string // as in the table
	addr   string // of side 1 in it
	debian string // the package, whose version the table's head tells
	start  func(*hosts) error
}

// nogso ends the names of variants whose underlay is without segmentation
// offload.
const nogso = "@nogso"

// tunnels are all tunnels, in the table's order.
var tunnels = []tunnel{
	{name: "veth", label: "bare veth", addr: underlay(1), start: func(*hosts) error { return nil }},
	{name: "vxlan", label: "kernel VXLAN, in clear", addr: overlay(1), start: (*hosts).vxlan},
	{name: "farlan", label: "**farlan**", addr: overlay(1), start: (*hosts).startFarlan},
	{name: "tinc", label: "tinc, switch mode", addr: overlay(1), debian: "tinc", start: (*hosts).tinc},
	{name: "n2n", label: "n2n", addr: overlay(1), debian: "n2n", start: (*hosts).n2n},
	{name: "fastd", label: "fastd, " + fastdMethod, addr: overlay(1), debian: "fastd", start: (*hosts).fastd},
	{name: "openvpn", label: "OpenVPN tap, AES-256-GCM", addr: overlay(1), debian: "openvpn", start: (*hosts).openvpn},
	{name: "wireguard-go", label: "wireguard-go (layer 3)", addr: overlay(1), debian: "wireguard-go", start: (*hosts).wireguard},
	{name: "veth" + nogso, label: "bare veth, no offload", addr: underlay(1), start: func(*hosts) error { return nil }},
	{name: "vxlan" + nogso, label: "kernel VXLAN, no offload", addr: overlay(1), start: (*hosts).vxlan},
	{name: "farlan" + nogso, label: "**farlan**, no offload", addr: overlay(1), start: (*hosts).startFarlan},
	{name: "wireguard-go" + nogso, label: "wireguard-go, no offload", addr: overlay(1), start: (*hosts).wireguard},
}

// peers are the tunnels that do farlan's job in user space.
var peers = []string{"tinc", "n2n", "fastd", "openvpn", "wireguard-go"}

func (t tunnel) base() string { return strings.TrimSuffix(t.name, nogso) }
func (t tunnel) plain() bool  { return strings.HasSuffix(t.name, nogso) }

// alike is another tunnel over the underlay that this one has.
func alike(name, other string) string {
	if strings.HasSuffix(name, nogso) {
		return other + nogso
	}
	return other
}

func (h *hosts) vxlan() error {
	return h.both(func(side int) error {
		err := h.ipIn(side, fmt.Sprintf("link add vx type vxlan id 42 dstport 4789 dev u local %s remote %s", underlay(side), underlay(1-side)))
		if err != nil {
			return err
		}
		return h.up(side, "vx", overlay(side))
	})
}

func (h *hosts) startFarlan() error {
	key := filepath.Join(h.dir, "key")
	if _, err := run(h.farlan, "key", "new", key); err != nil {
		return err
	}
	bootstrap := ""
	return h.both(func(side int) error {
		socket := filepath.Join(h.dir, fmt.Sprint("s", side))
		args := []string{
			h.farlan, "up", "--config", os.DevNull, "--key-file", key, "--name", fmt.Sprint("n", side), "--listen", underlay(side) + ":4747",
			"--tap", "fa", "--state-dir", filepath.Join(h.dir, fmt.Sprint("state", side)), "--socket", socket,
		}
		if bootstrap != "" {
			args = append(args, "--bootstrap", bootstrap)
		}
		if err := h.daemon(side, slices.Concat(h.before, args)...); err != nil {
			return err
		}
		if _, err := run(h.farlan, "wait", "--socket", socket, "--timeout", "10s"); err != nil {
			return err
		}
		text, err := run(h.farlan, "status", "--json", "--socket", socket)
		if err != nil {
			return err
		}
		var status struct {
			Listen []string `json:"listen"`
		}
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return fmt.Errorf("farlan status: %w", err)
		}
		if len(status.Listen) == 0 {
			return fmt.Errorf("farlan status: no listen address in %s", text)
		}
		bootstrap = status.Listen[0]
		return h.up(side, "fa", overlay(side))
	})
}
