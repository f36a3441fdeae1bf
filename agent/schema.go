package agent

import "time"

// What the client commands print with --json, and what the control socket
// answers: the contract of the command line. Fields are added, never changed or
// dropped. A value that isn't known is null.

const schemaVersion = 1

type statusView struct {
	Schema     int          `json:"schema_version"`
	ID         string       `json:"id"`
	Name       string       `json:"name"`
	Network    string       `json:"network"`
	Version    string       `json:"version"`
	Started    time.Time    `json:"started"`
	State      string       `json:"state"` // starting, ready, degraded
	Listen     []string     `json:"listen"`
	Ports      []portView   `json:"ports"`
	Peers      int          `json:"peers"`
	Links      int          `json:"links"`
	Control    int          `json:"control_connections"`
	Goroutines int          `json:"goroutines"`
	Health     []healthView `json:"health"`
	Uplink     *uplinkView  `json:"uplink"`      // null: not configured
	Drops      []dropView   `json:"drops"`       // frames and datagrams dropped, by reason
	TrainBytes uint64       `json:"train_bytes"` // of IP packets that were sent to measure capacities

	Admission  string          `json:"admission"`  // simple, signed
	Credential *credentialView `json:"credential"` // null: the network is simple
	Rotation   *rotationView   `json:"rotation"`   // null: the network's key isn't changing
	Agreement  *agreementView  `json:"agreement"`  // null: no links were decided on yet
	Floods     floodsView      `json:"floods"`
	Area       *areaView       `json:"area"`    // null: the network isn't divided
	Refused    []offenceView   `json:"refused"` // what came lately and may not

	Reservations *reservedCountView `json:"reservations"` // null: nothing is reserved at this agent
}

// offenceView is what came from a place of late that may not, and went no further.
type offenceView struct {
	Kind    string    `json:"kind"`
	Agent   string    `json:"agent"`
	Port    *string   `json:"port"`    // null: it came from that other agent
	Station string    `json:"station"` // MAC address, of the last one
	Several bool      `json:"several"` // there were others
	Count   uint64    `json:"count"`   // frames, or claims
	Since   time.Time `json:"since"`
	Last    time.Time `json:"last"`
}

// floodsView is how what all are to get spreads from this agent: broadcasts, and frames for
// stations that nobody knows.
type floodsView struct {
	Tree   bool   `json:"tree"`      // down the tree of the links; false: to each agent
	To     int    `json:"to"`        // how many agents it sends its own to
	Direct int    `json:"direct"`    // of them: as they aren't in the tree
	Sent   uint64 `json:"sent"`      // datagrams, down the tree
	Copies uint64 `json:"copies"`    // of these, sealed for one agent each
	Passed uint64 `json:"passed_on"` // copies of others'

	// What crosses to other agents of what was for all.
	Frames   uint64 `json:"frames"`    // copies that were flooded
	Bytes    uint64 `json:"bytes"`     // of these
	Asks     uint64 `json:"asks"`      // questions for all that went to who has the address alone
	AskBytes uint64 `json:"ask_bytes"` // of these, those to other agents
	Answers  uint64 `json:"answers"`   // questions that this agent answered itself
	Alone    uint64 `json:"alone"`     // multicast frames that went to agents where somebody listens alone
	Spared   uint64 `json:"spared"`    // copies of these that others didn't get
	Groups   int    `json:"groups"`    // multicast groups to which somebody listens
	Quiet    uint64 `json:"quiet"`     // questions that went to nobody: all had been asked a moment ago, or the owner hears them
}

// agreementView is by what an agent decided on its links in an epoch: agents of one network
// have equal ones a short while after the last news.
type agreementView struct {
	Epoch   int64  `json:"epoch"`   // of 10 s, since 1970
	Agents  int    `json:"agents"`  // that were there, this one included
	Records string `json:"records"` // hash of what all members tell
	Links   string `json:"links"`   // hash of who is there, and of the links that are kept
	Routes  string `json:"routes"`  // hash of the shortest paths that follow from records, of up to 16 agents to all
}

// credentialView is what makes an agent a member of a signed network.
type credentialView struct {
	Expires  time.Time `json:"expires"`
	Rights   []string  `json:"rights"`   // bridge, relay, reserve
	Invite   *string   `json:"invite"`   // null: the admin made it
	Complete bool      `json:"complete"` // false: a member's receipt is missing yet
}

type rotationView struct {
	Schema  int       `json:"schema_version,omitempty"`
	From    string    `json:"from"` // fingerprints
	To      string    `json:"to"`
	Until   time.Time `json:"until"`   // the old key is good
	Agents  int       `json:"agents"`  // that are here, this one included
	Have    int       `json:"have"`    // of them, go by the new key
	Waiting []string  `json:"waiting"` // those that don't yet, by name
}

type portView struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Role     string `json:"role"`
	MTU      int    `json:"mtu"`
	Offload  bool   `json:"offload"`
	Stations int    `json:"stations"`
	Bridge   string `json:"bridge,omitempty"`

	Tag         uint16 `json:"tag,omitempty"`         // the VLAN of what has no tag there
	Trunks      string `json:"trunks,omitempty"`      // the VLANs that pass with their tag, as 20+30-32
	Connections *int   `json:"connections,omitempty"` // of QEMUs
}

type healthView struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Hint   string `json:"hint"`
}

type uplinkView struct {
	UpMbit             float64 `json:"up_mbit"`
	DownMbit           float64 `json:"down_mbit"`
	ReservableUpMbit   float64 `json:"reservable_up_mbit"`
	ReservableDownMbit float64 `json:"reservable_down_mbit"`
}

type dropView struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

type peersView struct {
	Schema int        `json:"schema_version"`
	Peers  []peerView `json:"peers"`
}

type peerView struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	State     string     `json:"state"` // up, suspect, gone, idle: there, a session is opened when needed
	Path      string     `json:"path"`  // self, direct, relayed, none
	Via       []string   `json:"via"`
	Transport *string    `json:"transport"` // udp, stream
	Address   *string    `json:"address"`
	RTTms     *float64   `json:"rtt_ms"`
	JitterMs  *float64   `json:"jitter_ms"`
	Loss      *float64   `json:"loss"`
	LossLow   *float64   `json:"loss_low"` // its 95 % interval
	LossHigh  *float64   `json:"loss_high"`
	MTU       *int       `json:"mtu"` // of the path to it, bytes of an IP packet
	LastSeen  *time.Time `json:"last_seen"`
	Reason    *string    `json:"reason"` // why it isn't reached better; null: it is, directly
	Area      *uint32    `json:"area"`   // in which it is; null: it isn't known, or the network isn't divided

	// What the path to it carries, bits of underlay IP packets a second.
	CapacityMbit   *float64 `json:"capacity_mbit"`
	CapacitySource string   `json:"capacity_source"` // passive, train, none
	CapacityBound  bool     `json:"capacity_is_lower_bound"`
	AvailableMbit  *float64 `json:"available_mbit"` // what can be achieved now
}

type linksView struct {
	Schema int        `json:"schema_version"`
	Links  []linkView `json:"links"`
}

type linkView struct {
	From      string   `json:"from"`
	To        string   `json:"to"`
	State     string   `json:"state"` // up, down, probing
	Transport *string  `json:"transport"`
	RTTms     *float64 `json:"rtt_ms"`
	Reason    string   `json:"reason"`
	HeldBy    []string `json:"held_by"` // who wants it: one end, both, or none
}

type stationsView struct {
	Schema   int           `json:"schema_version"`
	Stations []stationView `json:"stations"`
}

type stationView struct {
	MAC      string   `json:"mac"`
	IPs      []string `json:"ips"`
	Agent    string   `json:"agent"`
	Port     *string  `json:"port"` // null: the other agent knows
	Local    bool     `json:"local"`
	Sequence uint64   `json:"sequence"`
	AgeS     float64  `json:"age_s"`
}

type pingView struct {
	Schema   int      `json:"schema_version"`
	To       string   `json:"to"`
	Path     []string `json:"path"`
	Sent     int      `json:"sent"`
	Received int      `json:"received"`
	MinMs    *float64 `json:"rtt_min_ms"`
	P50Ms    *float64 `json:"rtt_p50_ms"`
	P99Ms    *float64 `json:"rtt_p99_ms"`
}

type doctorView struct {
	Schema   int           `json:"schema_version"`
	Findings []findingView `json:"findings"`
}

type findingView struct {
	Check  string `json:"check"`
	Level  string `json:"level"` // ok, warn, fail
	Detail string `json:"detail"`
	Fix    string `json:"fix"` // "" if the level is ok
}

type versionView struct {
	Schema  int    `json:"schema_version"`
	Version string `json:"version"`
	Wire    int    `json:"wire_version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// errorView is the control socket's answer to what it can't do.
type errorView struct {
	Error string `json:"error"`
	Hint  string `json:"hint"`
	Code  int    `json:"code"` // the command's exit code
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

//go:fix inline
