package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"

	"farlan/discovery"
	"farlan/discovery/p2p"
	"farlan/overlay"
)

// What commands of the admin ask the agent, and tell it. The agent holds no admin
// key: the commands sign.

// membersView is what the admin must know to speak: private to the control socket.
type membersView struct {
	Network   string       `json:"network"`
	Self      string       `json:"self"`
	Bootstrap []string     `json:"bootstrap"` // multiaddrs to join by
	Version   uint64       `json:"version"`   // of what the admin said last, 0 nothing
	Statement []byte       `json:"statement"`
	Members   []memberView `json:"members"`
}

type memberView struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Credential []byte `json:"credential"`
}

// maxOwnAddrs is how many of the addresses to join by are this agent's own, at
// most, if others have any.
const maxOwnAddrs = discovery.MaxTokenAddrs / 2

func (n *node) membersView() membersView {
	names := n.names()
	v := membersView{Network: n.network.ID(), Self: n.self.String(), Bootstrap: n.seeds()}
	statement, version := n.store.Statement()
	if b, err := statement.Append(nil); err == nil && version != 0 {
		v.Version, v.Statement = version, b
	}
	for _, id := range n.store.Origins() {
		if c, ok := n.store.Credential(id); ok {
			v.Members = append(v.Members, memberView{ID: id.String(), Name: cmp.Or(names[id], id.Short()), Credential: c.Bytes()})
		}
	}
	return v
}

// seeds returns addresses to join by: this agent's, and one of each of some others
// that answer.
func (n *node) seeds() []string {
	own := n.multiaddrs()
	var others []string
	for _, p := range n.byIndex {
		if p != nil && p.direct() && len(p.member.Addrs) > 0 && len(others) < discovery.MaxTokenAddrs {
			others = append(others, p2p.Multiaddr(p.id, p.out.Load().way.Addr))
		}
	}
	own = own[:min(len(own), max(maxOwnAddrs, discovery.MaxTokenAddrs-len(others)))]
	all := slices.Concat(own, others)
	return all[:min(len(all), discovery.MaxTokenAddrs)]
}

// serveStatement takes what the admin says.
func (n *node) serveStatement(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, discovery.MaxRecord))
	if err != nil {
		refuse(w, http.StatusBadRequest, &failure{err: fmt.Errorf("statement: %w", err), code: exitFailed})
		return
	}
	var failed error
	if err := n.do(r.Context(), func(overlay.Instant) { failed = n.store.Accept(n.wall(), raw) }); err != nil {
		refuse(w, http.StatusServiceUnavailable, &failure{err: err, code: exitNoAgent})
		return
	}
	if failed != nil {
		refuse(w, http.StatusConflict, &failure{err: failed, hint: "try again", code: exitFailed})
		return
	}
	reply(w, struct{}{})
}

// An office is where an admin works: the running agent, and the admin key.
type office struct {
	*client
	network   discovery.Network
	admin     discovery.AdminKey
	view      membersView
	statement discovery.Statement
	members   []discovery.Credential
	names     map[overlay.AgentID]string
}

// openOffice asks the agent who is here.
func openOffice(ctx context.Context, c *client, f *files) (*office, error) {
	o := &office{client: c, names: make(map[overlay.AgentID]string)}
	var err error
	if o.network, o.admin, err = f.keys(); err != nil {
		return nil, err
	}
	if err = c.call(ctx, http.MethodGet, "/members", nil, &o.view); err != nil {
		return nil, err
	}
	if o.view.Network != o.network.ID() {
		return nil, hintf("name the other agent's socket with --socket, or its key with --key-file")("the agent is in network %s, the key file %s is of network %s", o.view.Network, f.key, o.network.ID())
	}
	if o.view.Version != 0 {
		if o.statement, err = discovery.ParseStatement(o.view.Statement); err != nil {
			return nil, fmt.Errorf("what the admin said last: %w", err)
		}
	}
	for _, m := range o.view.Members {
		cred, err := discovery.ParseCredential(m.Credential)
		if err != nil {
			return nil, fmt.Errorf("credential of %s: %w", m.Name, err)
		}
		o.members = append(o.members, cred)
		o.names[cred.Agent] = m.Name
	}
	return o, nil
}

// find returns the member with a name or id. An id may be unknown.
func (o *office) find(what string) (overlay.AgentID, error) {
	for id, name := range o.names {
		if name == what {
			return id, nil
		}
	}
	id, err := overlay.ParseAgentID(what)
	if err != nil {
		return id, failf(exitNoPeer, "'farlan peers' lists names and ids; of an agent that isn't known any more give the id")("%s: no such member", what)
	}
	return id, nil
}

// publish signs what the admin says next and has the agent tell all.
func (o *office) publish(ctx context.Context, now overlay.Instant, s discovery.Statement) error {
	r, err := discovery.SignStatement(now, o.admin, o.network, o.view.Version, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	_, err = o.request(ctx, http.MethodPost, "/statement", nil, r.Bytes())
	return err
}
