package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A crowd is many agents, each a process of its own with an address of its own, in one
// network namespace. Beacons are off: there is no network that carries them.
type crowd struct {
	t      *testing.T
	ns     string
	key    string
	agents []*process
	light  *process // nil: there are no light members
}

// perCrowdNet is how many addresses one network of the crowd's has.
const perCrowdNet = 200

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	needRoot(t)
	c := &crowd{t: t, ns: fmt.Sprintf("fc%d-%d", os.Getpid(), siteCount.Add(1)), key: newKeyFile(t)}
	c.run("ip", "netns", "add", c.ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", c.ns).Run() })
	c.run("ip", "-n", c.ns, "link", "set", "lo", "up")
	c.run("ip", "-n", c.ns, "route", "add", "local", "10.99.0.0/16", "dev", "lo")
	return c
}

func (c *crowd) run(line ...string) {
	c.t.Helper()
	if out, err := exec.Command(line[0], line[1:]...).CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v\n%s", line, err, out)
	}
}

// address is where an agent listens.
func (c *crowd) address(i int) string {
	return fmt.Sprintf("10.99.%d.%d", i/perCrowdNet, 1+i%perCrowdNet)
}

// add starts the next agent.
func (c *crowd) add(more ...string) *process {
	c.t.Helper()
	i := len(c.agents)
	args := append([]string{"--listen", c.address(i) + ":4747", "--log-level", "info", "--beacon=off"}, more...)
	a := startAgentIn(c.t, c.ns, c.key, fmt.Sprint("agent-", i), args...)
	c.agents = append(c.agents, a)
	return a
}

// ups returns how many members an agent sees up, itself included.
func (d *process) ups() (int, error) {
	c := d.client()
	c.timeout = 30 * time.Second
	var v statusView
	err := c.call(context.Background(), "GET", "/status", nil, &v)
	return v.Peers + 1, err
}

// see waits until all of some agents see count agents up.
func (c *crowd) see(agents []*process, count int, limit time.Duration) time.Duration {
	c.t.Helper()
	start := time.Now()
	for _, a := range agents { // one by one: asking costs them time
		eventually(c.t, limit-time.Since(start), func() error {
			n, err := a.ups()
			if err == nil && n < count {
				err = fmt.Errorf("%s sees %d of %d", a.name, n, count)
			}
			return err
		})
	}
	return time.Since(start)
}
