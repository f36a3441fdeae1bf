package agent

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"farlan/overlay"
	"farlan/overlay/qemu"
)

// A qemuConfig is one --qemu.
type qemuConfig struct {
	Path  string
	VLANs overlay.VLANs
}

// parsePortOptions cuts "key=value", the parts of a port's option s after its name.
func parsePortOptions(flag, s string, parts []string, keys ...string) (map[string]string, error) {
	values := make(map[string]string)
	for _, p := range parts {
		k, v, ok := strings.Cut(p, "=")
		if !ok || v == "" || !slices.Contains(keys, k) {
			return nil, usagef("known after the name: %s=…", strings.Join(keys, "=…, "))("%s %q: don't understand %q", flag, s, p)
		}
		values[k] = v
	}
	return values, nil
}

func (c *config) parseQEMU(s string) error {
	parts := strings.Split(s, ",")
	values, err := parsePortOptions("--qemu", s, parts[1:], "tag", "trunks")
	if err != nil {
		return err
	}
	q := qemuConfig{Path: parts[0]}
	if err = (qemu.Config{Path: q.Path}).Validate(); err != nil {
		return usagef("%s", hintOf(err))("--qemu %w", err)
	}
	if q.VLANs, err = parseVLANs("--qemu", s, values); err != nil {
		return err
	}
	c.QEMUs = append(c.QEMUs, q)
	return nil
}

// parseVLANs understands tag=N and trunks=N+N-N of a port's option s.
func parseVLANs(flag, s string, values map[string]string) (v overlay.VLANs, err error) {
	bad := func(err error) error {
		return usagef("tag=N for frames without a tag, trunks=N+N-N for those with one; numbers are 1 to %d", overlay.MaxVLAN)("%s %q: %w", flag, s, err)
	}
	if t, ok := values["tag"]; ok {
		if v.Tag, err = parseVLAN(t); err != nil {
			return v, bad(err)
		}
	}
	trunks, ok := values["trunks"]
	if !ok {
		return v, nil
	}
	v.Trunks = new(overlay.VLANSet)
	for part := range strings.SplitSeq(trunks, "+") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := parseVLAN(first)
		to, errTo := parseVLAN(last)
		if err = errors.Join(err, errTo); err == nil && from > to {
			err = fmt.Errorf("trunks %q: the range ends before it begins", part)
		}
		if err != nil {
			return v, bad(err)
		}
		for id := from; id <= to; id++ {
			v.Trunks.Add(id)
		}
	}
	if v.Trunks.Has(v.Tag) {
		return v, bad(fmt.Errorf("VLAN %d can't be both the tag and one of the trunks", v.Tag))
	}
	return v, nil
}

func parseVLAN(s string) (uint16, error) {
	id, err := strconv.ParseUint(s, 10, 16)
	if err != nil || id < 1 || id > overlay.MaxVLAN {
		return 0, fmt.Errorf("%q is not the number of a VLAN", s)
	}
	return uint16(id), nil
}
