package measure

// An Access is what an agent's own way to all others carries, each direction with how
// that is known: what plans may spend of it is spent on all its paths together. Rates
// are bits of underlay IP packets a second, 0 if the source is Unknown.
type Access struct {
	Up, Down             int64
	UpSource, DownSource Source
}
