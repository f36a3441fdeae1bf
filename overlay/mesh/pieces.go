package mesh

// pieces are those into which agents fall between which there are no ways. Distances tell,
// too, but take much longer to find.
type pieces struct {
	known bool
	of    []int32 // of each agent; nil: distances must tell
	n     int

	epoch   int64
	bridges [][2]int // of each piece in that epoch, see bridge
}

// whole says that there is a way from each agent to each; false if that isn't sure.
func (v *View) whole() bool {
	if !v.pieces.known {
		v.pieces.known = true
		v.divide()
	}
	return v.pieces.of != nil && v.pieces.n <= 1
}

// joined says whether there is a way between two agents, without distances if that is sure.
func (v *View) joined(a, b int) bool {
	if v.whole() {
		return true
	}
	if of := v.pieces.of; of != nil {
		return of[a] == of[b]
	}
	return v.d(a, b) != far
}

// divide finds the pieces, if all agents carry what others send and no way can be so long
// that it is as if there were none.
func (v *View) divide() {
	p := &v.pieces
	of, queue, most := make([]int32, len(v.agents)), make([]int, 0, len(v.agents)), int32(0)
	for first := range v.agents {
		if of[first] != 0 {
			continue
		}
		p.n++
		of[first], queue = int32(p.n), append(queue, first)
		for at := len(queue) - 1; at < len(queue); at++ {
			for _, h := range v.next[queue[at]] {
				if most = max(most, h.cost); of[h.to] == 0 {
					of[h.to] = int32(p.n)
					queue = append(queue, int(h.to))
				}
			}
		}
	}
	if !v.mutes && int64(most)*int64(len(of)) < far {
		p.of = of
	}
}

// bridge returns with whom an agent must link because the links don't hold all agents
// together: each piece has one pair in each epoch, by hash, so that all agree and pairs
// that can't link don't matter for long. -1 says with nobody.
func (v *View) bridge(agent int, epoch int64) int {
	if v.whole() {
		return -1
	}
	p := &v.pieces
	if p.of == nil {
		row := v.row(agent)
		if pair := v.joint(epoch, func(i int) bool { return row[i] != far }); pair[0] == agent {
			return pair[1]
		}
		return -1
	}
	if p.bridges == nil || p.epoch != epoch {
		p.epoch, p.bridges = epoch, make([][2]int, p.n+1)
	}
	piece := p.of[agent]
	pair := &p.bridges[piece]
	if *pair == [2]int{} { // no agent links with itself
		*pair = v.joint(epoch, func(i int) bool { return p.of[i] == piece })
	}
	if pair[0] == agent {
		return pair[1]
	}
	return -1
}

// joint returns the agents, one of a piece and one who isn't, that are to link in an epoch;
// -1 if there are none.
func (v *View) joint(epoch int64, within func(agent int) bool) [2]int {
	var others []int
	for j := range v.agents {
		if !within(j) {
			others = append(others, j)
		}
	}
	least, pair := ^uint64(0), [2]int{-1, -1}
	for i := range v.agents {
		if len(others) == 0 || !within(i) {
			continue
		}
		for _, j := range others {
			if h := mix(uint64(epoch) ^ (v.keys[i] + v.keys[j])); h < least && v.allowed(i, j) {
				least, pair = h, [2]int{i, j}
			}
		}
	}
	return pair
}
