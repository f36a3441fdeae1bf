package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi"
	"farlan/reserve/nsi/cs"
)

// An nsiFile is what a file of '--reserve nsi=FILE' says: which provider is asked for circuits,
// and where agents are attached to its network. See packaging/nsi-example.yaml.
type nsiFile struct {
	Path   string
	Config nsi.Config // without the callback's listener and the clock
	Listen string     // where the provider's callbacks are taken; "": nowhere
	// Device is the interface by which this agent's circuits come in, and VLANs are those that
	// they may be; "" if this agent isn't among the ends.
	Device string
	VLANs  cs.VLANs
}

// readNSIFile reads a file and looks at those that it names; it touches nothing. It reports every
// problem at once. self is this agent, or nobody where that isn't known.
func readNSIFile(path string, self overlay.AgentID) (*nsiFile, error) {
	b, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, usagef("write it by the example, nsi-example.yaml, or take nsi out of --reserve")("NSI file: %w", err)
	}
	if err != nil {
		return nil, hintf("see that it is a file, and that this user may read it")("NSI file: %w", err)
	}
	f, err := parseNSIFile(path, b, self)
	if err != nil {
		return nil, err
	}
	return f, f.checkFiles()
}

// parseNSIFile reads what is in a file.
func parseNSIFile(path string, b []byte, self overlay.AgentID) (*nsiFile, error) {
	f := &nsiFile{Path: path}
	f.Config.Self, f.Config.Version, f.Config.Ends = self, 1, make(map[overlay.AgentID]nsi.End)
	r := &yamlReader{what: "NSI file " + path}
	r.read(b, f.keys(r))
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	f.validate(r)
	if end, attached := f.Config.Ends[self]; attached && len(r.errs) == 0 {
		stp, _ := cs.ParseSTP(end.STP)
		f.Device, f.VLANs = end.Device, stp.VLANs
	}
	return f, errors.Join(r.errs...)
}

// keys are those that a file may have.
func (f *nsiFile) keys(r *yamlReader) yamlKeys {
	c := &f.Config
	file := func(to *string) func(*yaml.Node) error {
		return scalar(func(s string) error {
			if *to = s; s != "" && !filepath.IsAbs(s) {
				*to = filepath.Join(filepath.Dir(f.Path), s)
			}
			return nil
		})
	}
	return yamlKeys{
		"url": word(&c.URL), "requester": word(&c.Requester), "provider": word(&c.Provider),
		"certificate": file(&c.Certificate), "key": file(&c.Key), "authorities": file(&c.Authorities),
		"service": word(&c.Service),
		"version": scalar(func(s string) (err error) { c.Version, err = strconv.Atoi(s); return err }),
		"modify":  scalar(func(s string) error { return parseSwitch("modify", onOff(s), &c.Modify) }),
		"longest": scalar(func(s string) (err error) { c.Longest, err = time.ParseDuration(s); return err }),
		"subnet":  scalar(func(s string) (err error) { c.Subnet, err = netip.ParsePrefix(s); return err }),
		"callback": r.below(func() yamlKeys {
			return yamlKeys{"listen": word(&f.Listen), "url": word(&c.Callback.URL), "caller": word(&c.Callback.Caller)}
		}),
		"ends": r.each(func(n *yaml.Node) { f.readEnd(r, n) }),
	}
}

// onOff returns what people write in YAML for on and off.
func onOff(s string) string {
	switch s {
	case "true", "yes":
		return "on"
	case "false", "no":
		return "off"
	}
	return s
}

// readEnd reads where one agent is attached.
func (f *nsiFile) readEnd(r *yamlReader, n *yaml.Node) {
	var id overlay.AgentID
	var e nsi.End
	before := len(r.errs)
	r.mapping(n, yamlKeys{
		"agent":    scalar(func(s string) (err error) { id, err = overlay.ParseAgentID(s); return err }),
		"stp":      word(&e.STP),
		"capacity": scalar(func(s string) (err error) { e.Capacity, err = reserve.ParseRate(s); return err }),
		"device":   word(&e.Device),
	})
	if len(r.errs) > before {
		return
	}
	if id.IsZero() {
		r.fail(n, "name an agent by its id, as 'farlan status' prints it there", "an end without an agent")
		return
	}
	if _, twice := f.Config.Ends[id]; twice {
		r.fail(n, "", "agent %v has two ends", id)
	}
	if err := checkInterfaceName(e.Device); err != nil {
		r.fail(n, "name the interface there by which circuits come in, as eth1: they are VLANs of it", "device of agent %v: %w", id, err)
	}
	f.Config.Ends[id] = e
}

// validate says what of it makes no sense.
func (f *nsiFile) validate(r *yamlReader) {
	c := f.Config
	c.Now = wallClock
	if err := c.Validate(); err != nil {
		for _, e := range split(err) {
			r.fail(nil, "", "%s", strings.TrimPrefix(e.Error(), "nsi: "))
		}
	}
	if !c.Subnet.IsValid() {
		r.fail(nil, "choose a private one of /18 or larger that nobody uses otherwise, the same for all agents, as 10.98.0.0/16", "subnet: none: agents have addresses of it on circuits")
	}
	if f.Listen == "" && c.Callback == (nsi.Callback{}) {
		return
	}
	if _, port, err := net.SplitHostPort(f.Listen); err != nil || port == "" {
		r.fail(nil, "want an address of this host and a port, as 10.99.1.1:8444; without callback the provider is asked", "callback listen %q", f.Listen)
	}
	if u, err := url.Parse(c.Callback.URL); err != nil || u.Scheme != "https" || u.Hostname() == "" {
		r.fail(nil, "want https://host:port/path as the provider reaches it; without callback the provider is asked", "callback url %q", c.Callback.URL)
	}
}

// checkFiles looks at the files that it names.
func (f *nsiFile) checkFiles() error {
	c := &f.Config
	info, err := os.Stat(c.Key)
	if err != nil {
		return hintf("name the key of the certificate by which the provider knows this agent, and see that this user may read it")("NSI key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return hintf("make it private with 'chmod 600 %s'; if others may have read it, ask the provider for another certificate", c.Key)(
			"NSI key %s: others can read it (mode %04o)", c.Key, info.Mode().Perm())
	}
	if _, err = tls.LoadX509KeyPair(c.Certificate, c.Key); err != nil {
		return hintf("certificate and key must be PEM files that belong to each other")("NSI certificate %s and key %s: %w", c.Certificate, c.Key, err)
	}
	b, err := readBounded(c.Authorities)
	if err != nil {
		return hintf("name a PEM file with the certificates of those who sign the provider's")("NSI authorities: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(b) {
		return hintf("name a PEM file with the certificates of those who sign the provider's")("NSI authorities %s: there is no certificate in it", c.Authorities)
	}
	return nil
}

// warning says why no circuit can be asked for here though the file is good; "" if some can.
func (f *nsiFile) warning() string {
	if f.Device != "" || f.Config.Self.IsZero() {
		return ""
	}
	return fmt.Sprintf("this agent, %v, isn't one of the ends in %s: no circuit begins or ends here", f.Config.Self, f.Path)
}

// open returns the driver's configuration. It has a listener for callbacks if there are to be
// any, which nsi.Open, or whoever doesn't call it, closes.
func (f *nsiFile) open(now func() overlay.Instant) (nsi.Config, error) {
	c := f.Config
	c.Now = now
	if f.Listen == "" {
		return c, nil
	}
	var err error
	if c.Callback.Listener, err = net.Listen("tcp", f.Listen); err != nil {
		return c, hintf("name an address of this host and a free port as the callback's listen in %s; without callback the provider is asked", f.Path)("NSI callbacks: %w", err)
	}
	return c, nil
}

// pair says whether two addresses are those of the two ends of a circuit.
func (f *nsiFile) pair(a, b netip.Addr) bool {
	if !a.Is4() || !b.Is4() || !f.Config.Subnet.Contains(a) || !f.Config.Subnet.Contains(b) {
		return false
	}
	host := func(x netip.Addr) byte { return x.As4()[3] & 3 }
	same := netip.PrefixFrom(a, 30).Masked() == netip.PrefixFrom(b, 30).Masked()
	return same && (host(a) == 1 && host(b) == 2 || host(a) == 2 && host(b) == 1)
}
