//go:build linux

package portmap

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const aDescription = `<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<deviceList><device><deviceList><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>%s</controlURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>`

const anAnswer = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>%s</s:Body></s:Envelope>`

// try asks a device for its outside address, as openUPnP and grant do.
func try(ctx context.Context, t *testing.T, device http.Handler) (netip.Addr, error) {
	t.Helper()
	s := httptest.NewServer(device)
	t.Cleanup(s.Close)
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := newHTTP(netip.MustParseAddr("127.0.0.1"))
	root, err := describe(ctx, client, at)
	if err != nil {
		return netip.Addr{}, short(err)
	}
	all := services(root, client)
	if len(all) == 0 {
		return netip.Addr{}, fmt.Errorf("no service")
	}
	return upnp{service: all[0]}.external(ctx)
}

// device answers to GET with a description, to POST by answer.
func device(control string, answer http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			answer(w, r)
			return
		}
		fmt.Fprintf(w, aDescription, control)
	})
}

func body(format string, args ...any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, anAnswer, fmt.Sprintf(format, args...)) }
}

// What a device answers that means harm costs a few seconds and little memory, and
// leads to no other host.
func TestHostileDevices(t *testing.T) {
	const address = `<u:GetExternalIPAddressResponse xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1"><NewExternalIPAddress>%s</NewExternalIPAddress></u:GetExternalIPAddressResponse>`
	var elsewhere atomic.Int64
	other := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	other.Start()
	t.Cleanup(other.Close)
	another := strings.Replace(other.URL, "127.0.0.1", "127.0.0.2", 1)
	endless := func(begin, on string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, err := w.Write([]byte(begin))
			for b := bytes.Repeat([]byte(on), 1000); err == nil && r.Context().Err() == nil; {
				_, err = w.Write(b)
			}
		}
	}
	slow := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	for name, c := range map[string]struct {
		device http.Handler
		want   string // of the error; "" none
	}{
		"right":               {device("/c", body(address, "30.99.0.1")), ""},
		"another base":        {device(another+"/c", body(address, "30.99.0.1")), "is not the router"},
		"a name as base":      {device("http://router.example/c", body(address, "30.99.0.1")), "is not the router"},
		"no address":          {device("/c", body(address, "here\nand there")), "here"},
		"not XML":             {device("/c", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("%s%s<<<")) }), "decoding"},
		"nothing":             {device("/c", func(http.ResponseWriter, *http.Request) {}), "EOF"},
		"a fault":             {device("/c", body(`<s:Fault><detail><UPnPError><errorCode>501</errorCode></UPnPError></detail></s:Fault>`)), "error 501"},
		"an essay as a fault": {device("/c", body(`<s:Fault><faultstring>%s</faultstring></s:Fault>`, strings.Repeat("long ", 20_000))), "…"},
		"elsewhere":           {http.RedirectHandler(other.URL, http.StatusFound), "redirection"},
		"endless description": {endless("<root>", "<device>"), "unexpected EOF"},
		"endless answer":      {device("/c", endless(strings.TrimSuffix(anAnswer, "%s</s:Body></s:Envelope>"), "<a></a>")), "unexpected EOF"},
		"endless head": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 100_000))
		}), "headers exceeded"},
		"a slow description": {http.HandlerFunc(slow), "deadline"},
		"a slow answer":      {device("/c", slow), "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // ends what is slow, as an agent that ends does
			defer cancel()
			start := time.Now()
			a, err := try(ctx, t, c.device)
			if took := time.Since(start); took > 2*httpTimeout {
				t.Errorf("it took %v", took)
			}
			switch {
			case c.want == "" && (err != nil || a.String() != "30.99.0.1"):
				t.Errorf("%v, %v", a, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want a word of %q", err, c.want)
			case err != nil && (len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\x1b\n")):
				t.Errorf("not for people: %q", err)
			}
		})
	}
	t.Cleanup(func() {
		if n := elsewhere.Load(); n > 0 {
			t.Errorf("another host was asked %d times", n)
		}
	})
}

func TestLocations(t *testing.T) {
	router := netip.MustParseAddr("10.0.0.1")
	const gateway = "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
	for text, want := range map[string]string{
		"HTTP/1.1 200 OK\r\n" + gateway + "LOCATION: http://10.0.0.1:5000/d.xml\r\n\r\n":               "http://10.0.0.1:5000/d.xml",
		"HTTP/1.1 200 OK\r\n" + gateway + "Location: http://10.0.0.1/d.xml\r\n\r\n":                    "http://10.0.0.1/d.xml",
		"HTTP/1.1 200 OK\r\n" + gateway + "LOCATION: http://10.0.0.2:5000/d.xml\r\n\r\n":               "",
		"HTTP/1.1 200 OK\r\n" + gateway + "LOCATION: http://router/d.xml\r\n\r\n":                      "",
		"HTTP/1.1 200 OK\r\n" + gateway + "LOCATION: file:///etc/passwd\r\n\r\n":                       "",
		"HTTP/1.1 200 OK\r\n" + gateway + "LOCATION: http://u:p@10.0.0.1/\r\n\r\n":                     "",
		"HTTP/1.1 200 OK\r\n" + gateway + "\r\n":                                                       "",
		"HTTP/1.1 404 No\r\n" + gateway + "LOCATION: http://10.0.0.1/\r\n\r\n":                         "",
		"HTTP/1.1 200 OK\r\nST: upnp:printer\r\nLOCATION: http://10.0.0.1/\r\n\r\n":                    "",
		"NOTIFY * HTTP/1.1\r\n" + gateway + "LOCATION: http://10.0.0.1/\r\n\r\n":                       "",
		"HTTP/1.1 200 OK\r\n" + gateway + "LOCATION: http://10.0.0.1/\r\nContent-Length: 9999\r\n\r\n": "http://10.0.0.1/",
	} {
		got := ""
		if l := parseLocation([]byte(text), router); l != nil {
			got = l.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzLocation(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://10.0.0.1:5000/d.xml\r\n\r\n"))
	router := netip.MustParseAddr("10.0.0.1")
	f.Fuzz(func(t *testing.T, b []byte) {
		if l := parseLocation(b, router); l != nil && l.Hostname() != "10.0.0.1" {
			t.Errorf("%v is another host", l)
		}
	})
}

func FuzzDescription(f *testing.F) {
	f.Add(fmt.Appendf(nil, aDescription, "/c"))
	at := &url.URL{Scheme: "http", Host: "10.0.0.1:5000"}
	client := newHTTP(netip.MustParseAddr("10.0.0.1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if root, err := parseDescription(bytes.NewReader(b), at); err == nil && len(services(root, client)) > maxServices {
			t.Error("too many services")
		}
	})
}
