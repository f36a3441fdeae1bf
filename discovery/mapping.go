package discovery

// A Mapping is what the NAT in front of an agent, if there is one, does with what the
// agent sends (RFC 4787 § 4.1), as far as other members see it. The values are on the
// wire, in the flags of a Member.
type Mapping uint8

// The mappings.
const (
	MappingUnknown       Mapping = iota // too few others have told
	MappingNone                         // others see the agent at an address of its own
	MappingSame                         // all others see it at one and the same address
	MappingByDestination                // each sees it at another: nobody can be told where to send
)

// String returns what it means, for people.
func (m Mapping) String() string {
	switch m {
	case MappingNone:
		return "none"
	case MappingSame:
		return "same mapping for all"
	case MappingByDestination:
		return "mapping by destination"
	}
	return "unknown"
}

// The flags of a Member that are its Mapping.
const (
	mappingShift = 2
	mappingMask  = 3
)

func (m Mapping) flags() byte { return byte(m&mappingMask) << mappingShift }

func mappingOf(flags byte) Mapping { return Mapping(flags >> mappingShift & mappingMask) }
