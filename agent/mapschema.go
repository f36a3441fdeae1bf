package agent

import (
	"errors"
	"fmt"
)

// mapView is the map, of directed pairs: from sends, to receives.
type mapView struct {
	Schema int            `json:"schema_version"`
	Agents []mapAgentView `json:"agents"`
	Pairs  []mapPairView  `json:"pairs"`
}

type mapAgentView struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	UpMbit     *float64 `json:"up_mbit"`
	DownMbit   *float64 `json:"down_mbit"`
	UpSource   string   `json:"up_source"` // measured, configured, none
	DownSource string   `json:"down_source"`
}

type mapPairView struct {
	From      string   `json:"from"`
	To        string   `json:"to"`
	RTTms     *float64 `json:"rtt_ms"`
	RTTSource *string  `json:"rtt_source"` // measured, predicted
	RTTAgeS   *float64 `json:"rtt_age_s"`
	RTTError  *float64 `json:"rtt_error"` // of a predicted one: by which part of it it may be wrong
	JitterMs  *float64 `json:"jitter_ms"`
	QueueMs   *float64 `json:"queue_ms"` // on the way there
	Relayed   bool     `json:"relayed"`  // by a member: times and loss are of that way
	Via       *string  `json:"via"`      // its name, of this agent's pairs
	Loss      *float64 `json:"loss"`
	LossLow   *float64 `json:"loss_low"`
	LossHigh  *float64 `json:"loss_high"`

	CapacityMbit         *float64 `json:"capacity_mbit"`
	CapacityLowMbit      *float64 `json:"capacity_low_mbit"`
	CapacityHighMbit     *float64 `json:"capacity_high_mbit"`
	CapacitySource       string   `json:"capacity_source"` // passive, train, predicted, none
	CapacityIsLowerBound bool     `json:"capacity_is_lower_bound"`
	CapacityAgeS         *float64 `json:"capacity_age_s"`
	AvailableMbit        *float64 `json:"available_mbit"`
	MTU                  *int     `json:"mtu"`
}

// trafficView is what the agents infer from the frames.
type trafficView struct {
	Schema  int        `json:"schema_version"`
	Pattern string     `json:"pattern"` // of the stations; see measure.PatternOf
	Flows   []flowView `json:"flows"`
	Agents  []sumView  `json:"agents"`
}

type flowView struct {
	From      string  `json:"from"` // MAC addresses
	To        string  `json:"to"`
	AgentFrom string  `json:"agent_from"`
	AgentTo   string  `json:"agent_to"`
	Mbit      float64 `json:"mbit"` // of Ethernet frames
}

type sumView struct {
	From string  `json:"from"`
	To   string  `json:"to"`
	Mbit float64 `json:"mbit"`
}

var errTooMany = errors.New("map: this network has too many agents to show all pairs")

func errNoAgentCalled(name string) error { return fmt.Errorf("map: no agent here is called %s", name) }
