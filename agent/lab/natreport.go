package lab

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A natReport is what `lab status --json` prints of each NAT.
type natReport struct {
	Name     string   `json:"name"`
	Kind     NATKind  `json:"kind"`
	Options  []string `json:"options"` // as they were asked for, but group and behind
	Sites    []string `json:"sites"`   // right behind it
	Behind   *string  `json:"behind"`  // null: it is in the open
	Address  *string  `json:"address"` // outside; null: a firewall has none, or the wide area doesn't answer
	Mappings *int     `json:"mappings"`
}

// reportNATs looks at the lab's NATs.
func (l *Lab) reportNATs(ctx context.Context) []natReport {
	p, err := planNATs(l.Options)
	if err != nil || len(p.gates) == 0 {
		return nil
	}
	status, _ := ask(ctx, l.wanSocket(), controlRequest{}) // without an answer there is less to report
	var all []natReport
	for i, g := range p.gates {
		words := strings.Split(g.Kind, ",")
		r := natReport{Name: g.Name, Kind: p.specs[i].Kind, Options: words[1:], Behind: known(g.Behind), Sites: []string{}}
		for _, s := range p.sites {
			if p.behind[s] == g.Name {
				r.Sites = append(r.Sites, s)
			}
		}
		for _, n := range status.NATs {
			if n.Name == g.Name {
				r.Address, r.Mappings = n.address(), &n.Mappings
			}
		}
		all = append(all, r)
	}
	return all
}

// natOf returns what a site is behind, for people; "" if that is nothing.
func (l *Lab) natOf(site string) string {
	p, err := planNATs(l.Options)
	if err != nil {
		return ""
	}
	var text strings.Builder
	for i := p.index(p.behind[site]); i >= 0; i = p.index(p.gates[i].Behind) {
		text.WriteString(", behind " + p.gates[i].Kind)
	}
	return text.String()
}

// printNATs prints the NATs for people, if there are any.
func printNATs(w io.Writer, nats []natReport) {
	if len(nats) == 0 {
		return
	}
	fmt.Fprintln(w, "\nNAT\tKIND\tADDRESS\tBEHIND\tSITES\tMAPPINGS")
	for _, n := range nats {
		kind := strings.Join(append([]string{string(n.Kind)}, n.Options...), ",")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
			n.Name, kind, or(n.Address), or(n.Behind), strings.Join(n.Sites, ","), or(n.Mappings))
	}
}

// natJSON is what `lab wan --json` prints of each NAT.
type natJSON struct {
	Name     string            `json:"name"`
	Address  *string           `json:"address"` // null: a firewall has none
	Mappings int               `json:"mappings"`
	Out      uint64            `json:"out"` // packets that passed
	In       uint64            `json:"in"`
	Dropped  map[string]uint64 `json:"dropped"` // by reason
}

func natsJSON(nats []NATStatus) []natJSON {
	var all []natJSON
	for _, n := range nats {
		if n.Dropped == nil {
			n.Dropped = map[string]uint64{}
		}
		all = append(all, natJSON{n.Name, n.address(), n.Mappings, n.Out, n.In, n.Dropped})
	}
	return all
}

// address returns the NAT's outside address, or nil if it has none.
func (n NATStatus) address() *string {
	if !n.Address.IsValid() {
		return nil
	}
	return known(n.Address.String())
}

// reasons returns why packets were dropped, for people.
func (n NATStatus) reasons() string {
	var words []string
	for reason, count := range n.Dropped {
		words = append(words, fmt.Sprintf("%d %s", count, reason))
	}
	slices.SortFunc(words, func(a, b string) int {
		return strings.Compare(a[strings.IndexByte(a, ' '):], b[strings.IndexByte(b, ' '):])
	})
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}
