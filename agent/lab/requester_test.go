package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"farlan/overlay"
	"farlan/reserve"
	"farlan/reserve/nsi"
	"farlan/reserve/nsi/cs"
)

// A requester is this test program once more, on a host of a lab: there it asks the lab's
// provider by reserve/nsi's driver, as an agent of the host would, whose file it reads. It isn't
// that agent, so that neither takes the other's reservations for its own.
type requester struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

// requesterEnv is where the program finds what it is to be.
const requesterEnv = "LAB_REQUESTER"

type requesterConfig struct {
	File, Site string
	Callback   string // address and port; "": it asks
}

// An order is what to do with one grant or several.
type order struct {
	Do     string
	Wants  []reserve.Want
	Grants []reserve.Grant
	Rate   reserve.Rate
}

// An outcome is what came of it for each.
type outcome struct {
	Grant   reserve.Grant
	Far     reserve.Mark // the other end's
	Err     string
	Refused bool // cleanly: nothing is left of it
}

// requesterID is what stands for a site's agent.
func requesterID(site string) (id overlay.AgentID) {
	copy(id[:], site)
	return id
}

// requester starts one on a site's host.
func (l *Lab) requester(t *testing.T, site string, callback bool) *requester {
	t.Helper()
	h := l.mustHost(t, site)
	c := requesterConfig{File: l.nsiPath(site), Site: site}
	if callback {
		c.Callback = netip.AddrPortFrom(l.agentAddress(h), callbackPort+1).String()
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(cleanEnviron(), requesterEnv+"="+string(b))
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err = onHost(h.Namespace, cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("requester at %s: %v", site, err)
		}
	})
	return &requester{t, json.NewEncoder(in), json.NewDecoder(out)}
}

// do has an order carried out, at once for all that it names.
func (r *requester) do(o order) []outcome {
	r.t.Helper()
	var all []outcome
	if err := errors.Join(r.in.Encode(o), r.out.Decode(&all)); err != nil {
		r.t.Fatalf("%s: %v", o.Do, err)
	}
	return all
}

// one has an order for one grant carried out that must succeed.
func (r *requester) one(do string, g reserve.Grant) outcome {
	r.t.Helper()
	got := r.do(order{Do: do, Grants: []reserve.Grant{g}})[0]
	if got.Err != "" {
		r.t.Fatalf("%s %v: %s", do, g.ID, got.Err)
	}
	return got
}

// beRequester is the program on the host: until standard input ends.
func beRequester(text string, in io.Reader, out io.Writer) error {
	var c requesterConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	cfg, err := c.driver()
	if err != nil {
		return err
	}
	d, err := nsi.Open(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = d.Serve(ctx) }()
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(carryOut(ctx, d, o)); err != nil {
			return err
		}
	}
}

// driver returns how the provider is asked, by the agent's file but for who asks.
func (c requesterConfig) driver() (nsi.Config, error) {
	var f nsiFile
	b, err := os.ReadFile(c.File)
	if err == nil {
		err = yaml.Unmarshal(b, &f)
	}
	if err != nil {
		return nsi.Config{}, err
	}
	cfg := nsi.Config{
		URL: f.URL, Requester: f.Requester + ":test", Provider: f.Provider,
		Certificate: f.Certificate, Key: f.Key, Authorities: f.Authorities, Version: f.Version, Modify: f.Modify,
		Self: requesterID(c.Site), Ends: make(map[overlay.AgentID]nsi.End), Poll: 20 * time.Millisecond,
		Now: func() overlay.Instant { return overlay.Instant(time.Now().UnixNano()) },
	}
	if cfg.Subnet, err = netip.ParsePrefix(f.Subnet); err != nil {
		return cfg, err
	}
	for _, e := range f.Ends {
		stp, err := cs.ParseSTP(e.STP)
		if err != nil {
			return cfg, err
		}
		rate, err := reserve.ParseRate(e.Capacity)
		if err != nil {
			return cfg, err
		}
		site, _ := siteOf(stp.Port)
		cfg.Ends[requesterID(site)] = nsi.End{STP: e.STP, Capacity: rate, Device: e.Device}
	}
	if c.Callback != "" {
		cfg.Callback.URL = "https://" + c.Callback + "/"
		cfg.Callback.Listener, err = net.Listen("tcp", c.Callback)
	}
	return cfg, err
}

func carryOut(ctx context.Context, d *nsi.Driver, o order) []outcome {
	all := make([]outcome, max(len(o.Wants), len(o.Grants)))
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			var err error
			all[i].Grant, err = carryOutOne(ctx, d, o, i)
			all[i].Far, _ = d.Far(all[i].Grant.ID)
			if err != nil {
				all[i].Err = err.Error()
				all[i].Refused = errors.Is(err, reserve.ErrRefused) || errors.Is(err, reserve.ErrFull)
			}
		})
	}
	wg.Wait()
	return all
}

func carryOutOne(ctx context.Context, d *nsi.Driver, o order, i int) (reserve.Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch o.Do {
	case "hold":
		return d.Hold(ctx, o.Wants[i])
	case "commit":
		return d.Commit(ctx, o.Grants[i])
	case "activate":
		return d.Activate(ctx, o.Grants[i])
	case "status":
		return d.Status(ctx, o.Grants[i])
	case "modify":
		return d.Modify(ctx, o.Grants[i], o.Rate)
	case "release":
		return o.Grants[i], d.Release(ctx, o.Grants[i])
	}
	return reserve.Grant{}, fmt.Errorf("nothing is called %q", o.Do)
}
