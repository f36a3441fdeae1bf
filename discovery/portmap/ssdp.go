//go:build linux

package portmap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// A search asks thrice, each searchEvery, and waits searchEvery for the last answer.
	searches    = 3
	searchEvery = 700 * time.Millisecond
	// maxLocations is how many descriptions of the router are looked at.
	maxLocations = 2
	maxResponse  = 2048 // bytes of a datagram; what is longer is cut
)

// searchTargets are the devices that are searched for. Newer ones answer to the older
// name, too, but not all.
var searchTargets = []string{
	"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
	"urn:schemas-upnp-org:device:InternetGatewayDevice:2",
}

var ssdpGroup = net.UDPAddr{IP: net.IPv4(239, 255, 255, 250), Port: 1900}

var errNobody = errors.New("the router doesn't do it")

// search asks the local network who is a router (UPnP Device Architecture 1.1 § 1.3.2),
// and returns where the default router describes itself. Other hosts' answers aren't
// looked at.
func search(ctx context.Context, at lan) ([]*url.URL, error) {
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp4", netip.AddrPortFrom(at.self, 0).String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	p := ipv4.NewPacketConn(c)
	if err = errors.Join(p.SetMulticastInterface(at.device), p.SetMulticastTTL(2)); err != nil {
		return nil, err
	}
	var found []*url.URL
	b := make([]byte, maxResponse)
	for range searches {
		for _, target := range searchTargets {
			if _, err = c.WriteTo(searchRequest(target), &ssdpGroup); err != nil {
				return nil, err
			}
		}
		if err = c.SetReadDeadline(time.Now().Add(searchEvery)); err != nil {
			return nil, err
		}
		for len(found) < maxLocations && ctx.Err() == nil {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				break // it is time
			}
			if a, ok := from.(*net.UDPAddr); !ok || a.AddrPort().Addr().Unmap() != at.router {
				continue
			}
			if l := parseLocation(b[:n], at.router); l != nil && !slices.ContainsFunc(found, func(o *url.URL) bool { return *o == *l }) {
				found = append(found, l)
			}
		}
		if len(found) > 0 || ctx.Err() != nil {
			break
		}
	}
	if len(found) == 0 {
		return nil, errNobody
	}
	return found, nil
}

func searchRequest(target string) []byte {
	return fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %v\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: %s\r\n\r\n", &ssdpGroup, target)
}

// parseLocation returns where an answer to a search says that the router describes
// itself; nil if it is none, or names another host.
func parseLocation(b []byte, router netip.Addr) *url.URL {
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return nil
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK || !strings.Contains(r.Header.Get("ST"), "InternetGatewayDevice") {
		return nil
	}
	l, err := url.Parse(r.Header.Get("Location"))
	if err != nil || l.Scheme != "http" || l.User != nil {
		return nil
	}
	if a, err := netip.ParseAddr(l.Hostname()); err != nil || a != router {
		return nil
	}
	return l
}
