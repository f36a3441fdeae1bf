package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"farlan/agent/lab/guest"
)

// schemaVersion is that of all JSON that the commands print.
const schemaVersion = 1

// place is which lab a command is about.
type place struct{ name, dir string }

func (p *place) flags(c *cobra.Command) {
	c.PersistentFlags().StringVar(&p.name, "name", "lab", "the lab's name: 1 to 8 of a–z and 0–9")
	c.PersistentFlags().StringVar(&p.dir, "dir", "", "the lab's folder (default "+defaultDir("NAME")+")")
}

func (p *place) folder() string {
	if p.dir == "" {
		return defaultDir(p.name)
	}
	dir, err := filepath.Abs(p.dir)
	if err != nil {
		return p.dir // no working directory; then it stays relative
	}
	return dir
}

// Command returns the lab's commands.
func Command() *cobra.Command {
	var at place
	c := &cobra.Command{
		Use:   "lab",
		Short: "A whole grid on this one machine",
		Long: `lab builds a home LAN with a DHCP server, far sites with virtual machines, an
emulated wide area between them, and real agents, all in network namespaces of
this one machine. Nothing of it touches the machine's own network.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	at.flags(c)
	c.AddCommand(
		upCommand(&at), downCommand(&at), statusCommand(&at), execCommand(&at), agentCommand(&at),
		wanCommand(&at), circuitsCommand(&at), demoCommand(&at), guestKernelCommand(),
		wanDaemonCommand(), fileServerCommand(), crossConnectDaemonCommand(), providerDaemonCommand(),
	)
	return c
}

// optionFlags lets the flags of c say what lab to build.
func optionFlags(c *cobra.Command, o *Options) {
	f := c.Flags()
	f.IntVar(&o.Sites, "sites", o.Sites, "sites, home among them")
	f.IntVar(&o.VMs, "vms", o.VMs, "virtual machines of each far site")
	f.BoolVar(&o.QEMU, "qemu", o.QEMU, "the virtual machines are QEMU guests, not namespaces")
	f.IntVar(&o.MTU, "mtu", o.MTU, "of the wide-area interfaces")
	f.DurationVar(&o.Shape.Delay, "delay", o.Shape.Delay, "one way, between any two sites")
	f.DurationVar(&o.Shape.Jitter, "jitter", o.Shape.Jitter, "each packet's delay is within delay ± jitter")
	f.Var(&o.Shape.Rate, "rate", "of IP packets, each pair and direction, or unlimited")
	f.Var(&o.Shape.Loss, "loss", "packets lost by chance")
	f.Var(&o.Shape.Queue, "queue", "what may wait for the rate, as 50ms or 256KB")
	f.BoolVar(&o.Shape.Reorder, "reorder", o.Shape.Reorder, "jitter may change the packets' order")
	f.StringVar(&o.LogLevel, "log-level", o.LogLevel, "of the agents")
}

// complete fills in what flags don't say.
func (o *Options) complete(at *place) error {
	o.Name, o.Dir = at.name, at.folder()
	if err := o.Validate(); err != nil {
		return usageError{err}
	}
	var err error
	if o.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("where is this program: %w", err)
	}
	return nil
}

const upText = `up builds a lab, which goes on running in the background.

With --nat, sites have public addresses, or stand behind a NAT of a kind:
  none              nothing: a public address
  full-cone         one public port for all, which all may send to
  restricted        … which only addresses that were sent to may send to
  port-restricted   … and only from the ports that were sent to
  symmetric         a public port for every remote address and port
  firewall          a public address; nothing comes in but answers
  tcp-only          port-restricted, and UDP doesn't pass
Options of a NAT follow its kind, after commas:
  group=NAME        the sites that name the same group share one NAT
  behind=SITE       this NAT (or, with none, this site) is behind that of SITE,
                    a group, or a NAT with a name that is no site's
  hairpin           hosts behind it reach each other by their public addresses
  isolated          … and not by their inside ones
  cgn               inside addresses are 100.64.0.0/10, as behind a carrier's
  preserve, random, sequential
                    public ports: the inside port if it is free (the default but
                    for symmetric), a random one, the next one
  lifetime=30s      of UDP mappings (default 2m0s)

For example a home router behind a carrier's, and two sites behind one NAT:
  farlan lab up --sites 5 --nat isp=symmetric,cgn --nat site1=port-restricted,behind=isp \
    --nat site2=full-cone,group=g,hairpin --nat site3=full-cone,group=g,hairpin`

func upCommand(at *place) *cobra.Command {
	o := DefaultOptions("")
	var keep, asJSON bool
	c := &cobra.Command{
		Use:   "up",
		Short: "Build a lab, which goes on running in the background",
		Long:  upText,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			if err := o.complete(at); err != nil {
				return err
			}
			l, err := Up(ctx, o, keep, func(step string) { fmt.Fprintln(c.ErrOrStderr(), step) })
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), l.report(ctx))
			}
			return l.summary(c.OutOrStdout())
		},
	}
	optionFlags(c, &o)
	c.Flags().Var(natFlag{&o.NATs}, "nat", "what stands in front of a site (repeats)")
	c.Flags().Var(ip6Flag{&o.IP6}, "ip6", "a far site that has IPv6 too, or only that (repeats)")
	c.Flags().BoolVar(&o.Circuits, "circuits", false, "a provider grants circuits between the sites by NSI")
	c.Flags().BoolVar(&keep, "keep", false, "if it fails, leave what is there to look at, for lab down to remove")
	jsonFlag(c, &asJSON)
	return c
}

func downCommand(at *place) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End a lab and remove all of it, also a half-built one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			removed, err := Down(c.Context(), at.name, at.folder())
			if err != nil {
				return err
			}
			if removed == (Removed{}) {
				fmt.Fprintf(c.ErrOrStderr(), "lab %s: there was nothing to remove\n", at.name)
				return nil
			}
			fmt.Fprintf(c.ErrOrStderr(), "lab %s: ended %d processes, removed %d namespaces\n",
				at.name, removed.Processes, removed.Namespaces)
			return nil
		},
	}
}

func statusCommand(at *place) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "What is in a lab, and whether it runs",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := load(at.name, at.folder())
			if err != nil {
				return err
			}
			s := l.report(c.Context())
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return s.print(c.OutOrStdout())
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func execCommand(at *place) *cobra.Command {
	c := &cobra.Command{
		Use:   "exec HOST [--] COMMAND…",
		Short: "Run a command on a host of a lab",
		Long: `exec runs a command in a host's network namespace and passes its exit code on.
HOST is a name that lab status prints, or an agent's name. FARLAN_SOCKET is set to
the agent of the host's site, and farlan is in the PATH, so that this works:

  farlan lab exec site1 -- farlan peers`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := load(at.name, at.folder())
			if err != nil {
				return err
			}
			host, args := args[0], args[1:]
			if args[0] == "--" {
				args = args[1:]
			}
			if len(args) == 0 {
				return usageError{errors.New("which command?")}
			}
			return l.exec(host, args)
		},
	}
	c.Flags().SetInterspersed(false)
	return c
}

// exec turns this process into a program on a host. It returns only errors.
func (l *Lab) exec(name string, args []string) error {
	h, err := l.host(name)
	if err != nil {
		return usageError{err}
	}
	if h.Namespace == "" {
		return hintError{
			fmt.Errorf("%s is a QEMU guest: no command can be run on it from here", h.Name),
			"what it says is in " + l.path("guest-"+h.Name+".log"),
		}
	}
	env := cleanEnviron()
	if h.Site != "" {
		env = append(env, "FARLAN_SOCKET="+l.socket(h.Site))
	}
	path := os.Getenv("PATH") + string(os.PathListSeparator) + filepath.Dir(l.Options.Binary)
	if err = os.Setenv("PATH", path); err != nil {
		return err
	}
	env = append(env, "PATH="+path)
	program, err := exec.LookPath(args[0])
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	runtime.LockOSThread() // for good: this thread becomes the program
	if err := enterHost(h.Namespace); err != nil {
		return err
	}
	return fmt.Errorf("%s: run %s: %w", h.Name, program, unix.Exec(program, args, env))
}

func agentCommand(at *place) *cobra.Command {
	return &cobra.Command{
		Use:   "agent SITE stop|start|kill",
		Short: "End a site's agent, in order or at once, or start it again",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := open(at.name, at.folder())
			if err != nil {
				return err
			}
			defer l.release()
			switch args[1] {
			case "stop":
				return l.stopAgent(c.Context(), args[0])
			case "kill":
				return l.killAgent(c.Context(), args[0])
			case "start":
				return l.restartAgent(c.Context(), args[0])
			}
			return usageError{fmt.Errorf("%q is not stop, start or kill", args[1])}
		},
	}
}

func guestKernelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "guest-kernel",
		Short: "Fetch the kernel that QEMU guests boot, and print where it is",
		Long: `guest-kernel fetches Debian's kernel for virtual machines into FARLAN_CACHE, or
the user's cache folder, if it isn't there. Nothing is installed.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cache, err := guest.CacheDir()
			if err != nil {
				return err
			}
			k, err := guest.FetchKernel(c.Context(), cache)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), k.Image)
			return err
		},
	}
}

func fileServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "file-server ADDRESS",
		Short:  "Serve host-a's files",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM)
			defer stop()
			return serveFiles(ctx, args[0], c.OutOrStdout())
		},
	}
}

func jsonFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().BoolVar(asJSON, "json", false, "print JSON")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
