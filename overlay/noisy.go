package overlay

const (
	// StationFloods bounds the frames a second that are flooded for one station that isn't on
	// a LAN, so that it leaves something of its port's FloodRate to the others there. A
	// machine that starts sends tens; a video of 10 Mbit/s by multicast is about 900.
	StationFloods = 1000
	// noisySlots is how many stations of a port are counted apart. Those that meet in one
	// slot, which nobody can foresee, share its rate.
	noisySlots = 256
)

// stationFloods are the buckets of a place's stations.
type stationFloods struct {
	key   FlowKey
	slots [noisySlots]Bucket
}

// LimitStations bounds the floods of each station of the place, too. The key is random.
func (s *Source) LimitStations(key FlowKey) {
	s.stations = &stationFloods{key: key}
	for i := range s.stations.slots {
		s.stations.slots[i] = NewBucket(StationFloods, StationFloods)
	}
}

func (f *stationFloods) allow(now Instant, m MAC) bool {
	x := uint64(m[0])<<40 | uint64(m[1])<<32 | uint64(m[2])<<24 | uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
	return f.slots[mix(x^f.key[0], f.key[1]|1)%noisySlots].Allow(now)
}
