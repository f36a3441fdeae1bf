package nsi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"farlan/reserve"
	"farlan/reserve/nsi/cs"
)

// identity returns the TLS configurations for our requests and for the provider's callbacks.
func identity(c Config) (request, callback *tls.Config, err error) {
	b, err := os.ReadFile(c.Authorities)
	if err != nil {
		return nil, nil, fmt.Errorf("nsi: authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(b) {
		return nil, nil, fmt.Errorf("nsi: authorities: %s has no certificate in PEM", c.Authorities)
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("nsi: certificate and key: %w", err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, nil, err
	}
	request = &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() },
	}
	callback = &tls.Config{
		MinVersion: tls.VersionTLS12, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
		// The authorities sign more than the provider's certificate.
		VerifyConnection: func(s tls.ConnectionState) error { return s.PeerCertificates[0].VerifyHostname(c.Callback.Caller) },
	}
	return request, callback, nil
}

// A client exchanges messages with the provider. It is safe for concurrent use.
type client struct {
	cfg  Config
	http *http.Client
}

func newClient(cfg Config, t *tls.Config) *client {
	return &client{cfg, &http.Client{
		Timeout: cfg.Exchange,
		Transport: &http.Transport{
			TLSClientConfig: t, MaxIdleConns: 4, MaxConnsPerHost: 16, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 16 << 10, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the provider sends us elsewhere") },
	}}
}

// replies says what may be answered to a request at once, but for faults.
var replies = map[cs.Op]cs.Op{
	cs.QuerySummarySync: cs.QuerySummarySyncConfirmed, cs.QueryNotificationSync: cs.QueryNotificationSyncConfirmed,
	cs.Reserve: cs.ReserveResponse, cs.QuerySummary: cs.Acknowledgment, cs.ReserveCommit: cs.Acknowledgment,
	cs.ReserveAbort: cs.Acknowledgment, cs.Provision: cs.Acknowledgment, cs.Release: cs.Acknowledgment,
	cs.Terminate: cs.Acknowledgment,
}

// do sends a request and returns the reply. A fault is an error as said makes it; any other
// error means that nothing is known of what the provider has done.
func (c *client) do(ctx context.Context, m cs.Message) (cs.Message, error) {
	m.Header = cs.Header{
		Protocol: cs.ToProvider, Correlation: m.Correlation, Requester: c.cfg.Requester, Provider: c.cfg.Provider, ReplyTo: nobody,
	}
	if c.cfg.Callback.Listener != nil {
		m.ReplyTo = c.cfg.Callback.URL
	}
	if m.Correlation == "" {
		m.Correlation = newCorrelation()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL, bytes.NewReader(m.Append(nil)))
	if err != nil {
		return cs.Message{}, fmt.Errorf("nsi: %s: %w", m.Op, err)
	}
	r.Header.Set("Content-Type", "text/xml; charset=utf-8")
	r.Header.Set("SOAPAction", cs.Action(m.Op))
	answer, err := c.http.Do(r)
	if err != nil {
		return cs.Message{}, fmt.Errorf("nsi: %s: %w", m.Op, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusInternalServerError {
		return cs.Message{}, fmt.Errorf("nsi: %s: the provider answers %s", m.Op, answer.Status)
	}
	b, err := io.ReadAll(io.LimitReader(answer.Body, cs.MaxSize+1))
	if err != nil {
		return cs.Message{}, fmt.Errorf("nsi: %s: %w", m.Op, err)
	}
	return c.understand(m, b)
}

func (c *client) understand(m cs.Message, b []byte) (cs.Message, error) {
	reply, err := cs.Parse(b)
	switch {
	case err != nil:
		return cs.Message{}, fmt.Errorf("nsi: reply to %s: %w", m.Op, err)
	case reply.Op == cs.Fault:
		return cs.Message{}, said(m.Op, reply.Exception, nil)
	case reply.Op != replies[m.Op] || reply.Correlation != m.Correlation:
		return cs.Message{}, fmt.Errorf("nsi: reply to %s: it is %s, or to something else", m.Op, reply.Op)
	}
	return reply, nil
}

// newCorrelation draws a UUID of version 4 (RFC 9562 § 5.4).
func newCorrelation() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return "urn:uuid:" + uuid(u)
}

func uuid(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// A denial is what the provider says instead of doing something.
type denial struct {
	op      cs.Op
	code    string
	text    string
	meaning error // of reserve's; nil: nothing follows from it
}

// Error repeats the provider's words.
func (d *denial) Error() string {
	return fmt.Sprintf("nsi: the provider says to %s: %.200q (%.20q)", d.op, d.text, d.code)
}

// Unwrap returns what it means.
func (d *denial) Unwrap() error { return d.meaning }

// What exceptions mean, by their identifiers; 006… are the same in an older edition.
var meanings = map[string]error{
	"00600": reserve.ErrFull, "00601": reserve.ErrFull, "00602": reserve.ErrFull,
	"00704": reserve.ErrFull, "00705": reserve.ErrFull,
	"00203": reserve.ErrGone, "00204": reserve.ErrGone,
	"00103": reserve.ErrUnsupported,
}

// said makes an error of an exception. The ones of domains below count, too: an aggregator's
// own often says no more than that one of them failed. If nothing tells, it means otherwise;
// and of an internal error nothing ever follows but what a Failed message says by its name.
func said(op cs.Op, e *cs.Exception, otherwise error) *denial {
	d := &denial{op: op, code: e.ID, text: e.Text, meaning: otherwise}
	if otherwise == nil && e.ID != "" && !slices.Contains([]string{"00500", "00501", "00502", "00503"}, e.ID) {
		d.meaning = reserve.ErrRefused
	}
	var look func(e *cs.Exception)
	look = func(e *cs.Exception) {
		if m := meanings[e.ID]; m != nil {
			d.code, d.text, d.meaning = e.ID, e.Text, m
		}
		for i := range e.Children {
			look(&e.Children[i])
		}
	}
	look(e)
	return d
}

// code returns the identifier of the exception in err, or "".
func code(err error) string {
	if d, ok := errors.AsType[*denial](err); ok {
		return d.code
	}
	return ""
}
