package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"farlan/discovery"
	"farlan/overlay"
)

// adminOrders are what the admin of a signed network says when its key changes: that
// it does, and once more, for the new key, what it said last. Both come together, so
// that who is revoked stays so for agents that know the new key only.
type adminOrders struct {
	Rotation  []byte `json:"rotation"`            // a record
	Statement []byte `json:"statement,omitempty"` // one of the new network; none: the admin has said nothing yet
}

// maxOrders is more than adminOrders take: two records in base64.
const maxOrders = 4 * discovery.MaxRecord

// adminOrders makes the orders with the admin key, in the form in which they are sent.
func (c *client) adminOrders(ctx context.Context, f *files, overlap time.Duration) ([]byte, error) {
	if err := checkOverlap(overlap); err != nil {
		return nil, err
	}
	if err := f.resolve(); err != nil {
		return nil, err
	}
	o, err := openOffice(ctx, c, f)
	if err != nil {
		return nil, fmt.Errorf("key rotate: %w", err)
	}
	to, err := discovery.NewNetworkKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	now := wallClock()
	order, err := discovery.SignAdminRotation(now, o.admin, o.network, uint64(now), overlap, to)
	if err != nil {
		return nil, err
	}
	orders := adminOrders{Rotation: order.Bytes()}
	if o.view.Version != 0 {
		again, err := discovery.SignStatement(now, o.admin, discovery.NewNetwork(to, o.network.Admin()), o.view.Version, o.statement)
		if err != nil {
			return nil, err
		}
		orders.Statement = again.Bytes()
	}
	return json.Marshal(orders)
}

// readOrders returns the orders that come with a request, nil if there are none.
func readOrders(w http.ResponseWriter, r *http.Request) (*adminOrders, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrders))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	orders := new(adminOrders)
	return orders, json.Unmarshal(b, orders)
}

var errOrders = errors.New("key rotate: these are not the admin's orders for this network")

// rotateByAdmin changes the key of a signed network as the admin orders it.
func (n *node) rotateByAdmin(now overlay.Instant, orders adminOrders) (*rotationView, error) {
	if err := n.changing(); err != nil {
		return nil, err
	}
	wall, network := n.wall(), n.keys.ring.Current()
	order, err := saidBy(network, orders.Rotation, discovery.KindRotation)
	if err != nil {
		return nil, err
	}
	rotation, err := discovery.ParseRotation(order.Body)
	if err != nil {
		return nil, err
	}
	if err = n.checkAgain(discovery.NewNetwork(rotation.To, network.Admin()), orders.Statement); err != nil {
		return nil, err
	}
	before := n.keys.ring
	ring, err := n.obey(wall, order, rotation.To)
	if err != nil {
		return nil, err
	}
	if err := n.store.Accept(wall, orders.Rotation); err != nil {
		return nil, errors.Join(fmt.Errorf("key rotate: %w", err), writeKeys(n.cfg.KeyFile, before), forgetOldKeys(n.cfg.KeyFile))
	}
	n.changeKey(now, ring)
	if orders.Statement != nil {
		if err := n.store.Accept(wall, orders.Statement); err != nil {
			n.log.Error("what the admin said isn't known by the new key", "error", err)
		}
	}
	return n.rotation(), nil
}

// checkAgain checks what the admin says once more for another key.
func (n *node) checkAgain(network discovery.Network, raw []byte) error {
	_, newest := n.store.Statement()
	if newest == 0 && raw == nil {
		return nil
	}
	again, err := saidBy(network, raw, discovery.KindAdmin)
	if err == nil && again.Version <= newest {
		err = hintf("try again")("key rotate: the admin has just said something else")
	}
	return err
}

// saidBy returns a record of a network's admin.
func saidBy(network discovery.Network, raw []byte, kind discovery.Kind) (discovery.Record, error) {
	r, err := discovery.ParseRecord(network.Root(), raw)
	switch {
	case err != nil:
		return r, fmt.Errorf("%w: %w", errOrders, err)
	case !network.Signed() || r.Kind != kind || r.Origin != overlay.AgentID(network.Admin()):
		return r, errOrders
	}
	return r, nil
}
