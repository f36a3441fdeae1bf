package agent

import (
	"testing"

	"farlan/discovery"
	"farlan/overlay"
)

// Pipes go to members that may relay first, and never to those that are barred.
func TestPipesToWhoMayRelay(t *testing.T) {
	n := reachNode(t)
	now := n.now()
	n.pipes.cut = now.Add(-2 * udpPatience)
	rights := []discovery.Rights{discovery.RightBridge, discovery.RightRelay, discovery.AllRights, discovery.AllRights}
	for i, r := range rights {
		p := n.meet(now, overlay.AgentID{byte(i + 1)})
		p.rights, p.barred = r, i == 3
	}
	want := n.wantPipes(now)
	if len(want) != carriers || want[0].id != (overlay.AgentID{2}) || want[1].id != (overlay.AgentID{3}) {
		t.Errorf("pipes to %v", want)
	}
	for _, p := range n.byIndex[1:3] {
		p.barred = true
	}
	if want = n.wantPipes(now); len(want) != 1 || want[0].id != (overlay.AgentID{1}) {
		t.Errorf("to one that may not relay, if there is no other: %v", want)
	}
}
