//go:build linux

package tc

import (
	"fmt"

	"farlan/reserve"
)

// refused answers whether an interface is one that can't be reserved on, whatever is there.
func (l link) refused() error {
	switch {
	case l.loopback:
		return fmt.Errorf("%w: %s leads to this host itself", reserve.ErrUnsupported, l.name)
	case l.kind == "openvswitch" || l.master == "openvswitch":
		return fmt.Errorf("%w: %s is a port of Open vSwitch, which removes queueing disciplines that it doesn't know: let the ovs driver reserve there", reserve.ErrForeign, l.name)
	}
	return nil
}

// foreign answers whether a root is somebody else's, and says what to do. The kernel's own have
// no number, all that somebody has put there do.
func (r root) foreign(device string) error {
	if r.ours || r.handle == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s has a queueing discipline that isn't farlan's (%s %x:); if nobody needs it, remove it with \"tc qdisc del dev %s root\"",
		reserve.ErrForeign, device, r.kind, r.handle>>16, device)
}
