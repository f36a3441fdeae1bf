package measure

import (
	"cmp"
	"slices"
)

// An Access is what an agent's own way to all others carries, each direction with how
// that is known: what plans may spend of it is spent on all its paths together. Rates
// are bits of underlay IP packets a second, 0 if the source is Unknown.
type Access struct {
	Up, Down             int64
	UpSource, DownSource Source
}

// agree is how close rates of two paths must be to be one bottleneck's.
const agree = 10 // per cent

// AccessRate returns the rate of an agent's access link in one direction, from what the
// paths carry that go over it, bits of IP packets a second; lower bounds and what is
// not known are 0. It is the largest rate on which two paths or more agree within a
// tenth: whatever lies on one path alone limits that one only, and a single path that
// carries more doesn't go over the link, as one to a neighbour. The rate is the
// median of those that agree. configured is what somebody says that it is, 0 nobody
// does, and counts more. The source is Configured, Measured or Unknown, with rate 0.
func AccessRate(configured int64, paths []int64) (rate int64, source Source) {
	if configured > 0 {
		return configured, Configured
	}
	all := slices.DeleteFunc(slices.Clone(paths), func(r int64) bool { return r <= 0 || r > maxRate })
	slices.SortFunc(all, func(a, b int64) int { return cmp.Compare(b, a) })
	for i := range all {
		n := 1
		for i+n < len(all) && all[i+n] >= all[i]-all[i]/100*agree {
			n++
		}
		if n > 1 {
			return all[i+n/2], Measured
		}
	}
	return 0, Unknown
}
