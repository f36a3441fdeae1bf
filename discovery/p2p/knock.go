package p2p

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// A knock is a datagram, sealed as all are, that says no more than that it came: its
// sender calls from a port of its own that nobody has sent to, so what stands in front
// of the receiver didn't expect it. Its first byte is doorKnock, its content a token.
const (
	doorKnock = 0xc0 | 3

	knocks     = 3 // some may be lost
	knockEvery = 150 * time.Millisecond
)

// A Token tells knocks apart.
type Token [8]byte

// Knock tries an address from outside, as somebody whom nobody there has called: with
// datagrams from a new port, which the other side may tell its Config.Knocked of, and
// with a TCP connection. It says what could be sent, and whether TCP connected, after
// two seconds at most. It blocks.
func (n *Node) Knock(ctx context.Context, to netip.AddrPort, token Token) (sent, connected bool) {
	if !n.begin() {
		return false, false
	}
	defer n.tasks.Done()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	sent = n.knockUDP(ctx, to, token)
	c, err := proofDialer{n.doors}.DialContext(ctx, "tcp"+family(to), to.String())
	if err != nil {
		return sent, false
	}
	reset(c)
	return sent, true
}

func (n *Node) knockUDP(ctx context.Context, to netip.AddrPort, token Token) (sent bool) {
	own, err := n.doors.of("udp" + family(to))
	if err != nil {
		return false
	}
	local := &net.UDPAddr{IP: own.LocalAddr().(*net.UDPAddr).IP}
	c, err := net.DialUDP("udp"+family(to), local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	for range knocks {
		for _, k := range *n.doors.door.keys.Load() {
			_, err = c.Write(n.doors.door.sealBy(k.doorKey, nil, doorKnock, token[:]))
			sent = sent || err == nil // later ones fail if somebody refuses the first
		}
		select {
		case <-ctx.Done():
			return sent
		case <-time.After(knockEvery):
		}
	}
	return sent
}

// knocked takes a knock.
func (c *doorConn) knocked(b []byte, from netip.AddrPort) {
	body, by := c.door.unseal(nil, doorKnock, b, &c.head)
	if by != nil && len(body) == len(Token{}) && c.door.knock != nil {
		c.door.knock(from, Token(body))
	}
}

func family(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return "4"
	}
	return "6"
}
