package agent

import (
	"cmp"
	"context"
	"errors"

	"farlan/reserve"
	"farlan/reserve/dscp"
	"farlan/reserve/exec"
	"farlan/reserve/ovs"
	"farlan/reserve/tc"
)

// openDrivers opens those that are configured. One that can't be is told of, and the agent goes
// on without: reservations are never in the way of traffic.
func (n *node) openDrivers(ctx context.Context) (all []reserve.Driver) {
	r := &n.reserving
	for i := range n.cfg.Reserve.Drivers {
		c := &n.cfg.Reserve.Drivers[i]
		d, fix, err := n.openDriver(ctx, c)
		if err != nil {
			if c.Named {
				r.problems = append(r.problems, reserveProblem{c.Name, err.Error(), fix})
			}
			n.log.Info("a driver for reservations isn't there", "driver", c.Name, "why", err, "fix", fix)
			continue
		}
		all = append(all, d)
	}
	return all
}

// openDriver opens one; fix says what to do about an error.
func (n *node) openDriver(ctx context.Context, c *driverConfig) (d reserve.Driver, fix string, err error) {
	switch c.Name {
	case "tc":
		d, err = n.openTC()
		return d, "run the agent with CAP_NET_ADMIN, or leave tc out of --reserve", err
	case "dscp":
		return dscp.New(c.CodePoint), "", nil
	case "ovs":
		if n.cfg.Uplink.Up == 0 {
			return nil, "say with --uplink what the port carries", errors.New("what the switch's port carries isn't known")
		}
		d, err = ovs.New(c.ovsConfig(n))
		return d, "see that ovsdb-server runs and that --reserve names its socket and a port of the switch", err
	case "exec":
		d, err = exec.New(ctx, c.execConfig(n))
		return d, "see that the program can be run and answers as packaging/reserve-example does", err
	}
	d, err = n.openNSI(c) // nsi
	return d, cmp.Or(hintOf(err), "see the file that --reserve nsi names; packaging/nsi-example.yaml is an example"), err
}

// openTC opens the driver of this host's queues, which are taken away when the agent ends in order.
func (n *node) openTC() (reserve.Driver, error) {
	d, err := tc.Open(tc.Config{Rate: n.cfg.Uplink.Up})
	if err != nil {
		return nil, err
	}
	n.reserving.close = append(n.reserving.close, func() {
		if err := d.Close(); err != nil {
			n.log.Warn("reservations: queues can't be taken away", "error", err)
		}
	})
	return d, nil
}

// closeDrivers ends what drivers keep while they are open, after all else.
func (n *node) closeDrivers() {
	for _, f := range n.reserving.close {
		f()
	}
}
