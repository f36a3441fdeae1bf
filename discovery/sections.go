package discovery

// sectionNames are those of the message format.
var sectionNames = [...]string{
	"", "hash", "digest", "offer", "request", "record", "claim", "news", "prune", "graft", "areas", "sums", "part", "seek",
}

// Sections calls each with the parts of a message between two stores: what a part is called
// (a record is called by its kind) and how many bytes it takes, its head included. So
// simulators and tests can say what replication is spent on. What can't be read is called
// "unknown".
func Sections(msg []byte, each func(name string, size int)) {
	if len(msg) == 0 || msg[0] != messageVersion {
		each("unknown", len(msg))
		return
	}
	for rest := msg[1:]; len(rest) > 0; {
		typ, body, next, err := cutSection(rest)
		switch {
		case err != nil:
			each("unknown", len(rest))
			return
		case typ == sectionRecord && len(body) > 1:
			each(Kind(body[1]).String(), sectionHead+len(body))
		case int(typ) < len(sectionNames) && typ > 0:
			each(sectionNames[typ], sectionHead+len(body))
		default:
			each("unknown", sectionHead+len(body))
		}
		rest = next
	}
}
