package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func demoCommand(at *place) *cobra.Command {
	o := DefaultOptions("")
	c := &cobra.Command{
		Use:   "demo",
		Short: "Tell in two minutes what farlan does, and check every word",
		Long: `demo builds a lab of its own, named demo unless --name says otherwise, shows
what happens in it, removes it, and ends with one line per claim: ok or FAIL. It
succeeds only if every claim holds.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			if !c.Flags().Changed("name") {
				at.name = "demo"
			}
			if err := o.complete(at); err != nil {
				return err
			}
			if o.Sites < 3 || o.VMs < 1 {
				return usageError{errors.New("the story needs two far sites with a virtual machine each: --sites 3 --vms 1 at least")}
			}
			return Demo(ctx, o, c.OutOrStdout())
		},
	}
	optionFlags(c, &o)
	return c
}

// A claim is something that the demo says of farlan, and what came of it.
type claim struct {
	ok     bool
	text   string
	figure string
}

// A story is a demo on its way.
type story struct {
	*Lab
	out       io.Writer
	start     time.Time
	plain     bool // without colour
	claims    []claim
	bootstrap string // the one address that the far agents know
}

// Demo builds a lab, tells to out what happens in it, and removes it. It
// returns an error unless every claim holds.
func Demo(ctx context.Context, o Options, out io.Writer) error {
	if err := checkMachine("ping"); err != nil {
		return err
	}
	l, err := begin(ctx, o)
	if err != nil {
		return err
	}
	defer l.release()
	s := &story{Lab: l, out: out, start: time.Now(), plain: !isTerminal(out) || os.Getenv("NO_COLOR") != ""}
	s.tell(ctx)
	s.cleanUp(ctx)
	return s.verdict(ctx)
}

// tell goes through the chapters until one can't go on.
func (s *story) tell(ctx context.Context) {
	for _, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"A home LAN, far sites, and a wide area between them", s.place},
		{"One key, one known address", s.agents},
		{"Who found whom", s.meeting},
		{"A far machine is on the home LAN", s.leases},
		{"Traffic", s.traffic},
		{"What the agents know", s.tables},
		{"An agent is killed", s.killing},
		{"It comes back", s.comeback},
	} {
		s.title(chapter.title)
		if err := chapter.tell(ctx); err != nil {
			s.say("%v", err)
			s.claim(false, chapter.title, "the story ends here: %v", err)
			return
		}
	}
}

// cleanUp removes the lab and claims that nothing is left.
func (s *story) cleanUp(ctx context.Context) {
	s.title("The end")
	removed, err := s.remove(context.WithoutCancel(ctx))
	namespaces, listErr := namespacesOf(s.Options.Name)
	left := len(processesIn(namespaces))
	for _, p := range s.Processes {
		if p.alive() {
			left++
		}
	}
	err = errors.Join(err, listErr)
	if err != nil {
		s.say("%v", err)
	}
	s.say("%d processes ended, %d namespaces removed", removed.Processes, removed.Namespaces)
	s.claim(err == nil && left == 0 && len(namespaces) == 0, "nothing is left behind",
		"%d processes and %d namespaces left", left, len(namespaces))
}

// verdict prints the claims and returns an error unless all hold.
func (s *story) verdict(ctx context.Context) error {
	s.title("Claims")
	failed, width := 0, 0
	for _, c := range s.claims {
		width = max(width, len(c.text))
	}
	for _, c := range s.claims {
		word := s.paint("32", "ok  ")
		if !c.ok {
			word = s.paint("31", "FAIL")
			failed++
		}
		fmt.Fprintf(s.out, "%s  %-*s  %s\n", word, width, c.text, c.figure)
	}
	fmt.Fprintf(s.out, "\n%d of %d claims hold; it took %.0f s\n",
		len(s.claims)-failed, len(s.claims), time.Since(s.start).Seconds())
	switch {
	case ctx.Err() != nil:
		return errors.New("demo: interrupted; everything is cleaned up")
	case failed > 0:
		return fmt.Errorf("demo: %d of %d claims don't hold", failed, len(s.claims))
	}
	return nil
}

// claim adds a claim, which holds if ok, with its figure.
func (s *story) claim(ok bool, text, format string, args ...any) {
	s.claims = append(s.claims, claim{ok, text, fmt.Sprintf(format, args...)})
}

// title begins a chapter.
func (s *story) title(text string) { fmt.Fprintf(s.out, "\n%s\n", s.paint("1", text)) }

// say prints a line of the story, with the time since its beginning.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%7.2f s  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// show prints what a command prints, set in.
func (s *story) show(command string, output []byte) {
	s.say("%s", s.paint("1", "$ "+command))
	for line := range strings.Lines(string(output)) {
		fmt.Fprintf(s.out, "           %s", line)
	}
}

func (s *story) paint(code, text string) string {
	if s.plain {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// isTerminal reports whether what is written to w is seen on a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
