package p2p

import (
	"context"
	"log/slog"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"
)

// LogTo sends what libp2p has to say to log instead of standard error: its
// warnings become debug messages, since what they warn of (a peer that can't be
// dialled) is daily life here, and what an operator must know this package says
// itself. The DHT's own logger is silenced. It is for the whole process; call it
// once, before New.
func LogTo(log *slog.Logger) {
	gologshim.SetDefaultHandler(quiet{log.With("from", "libp2p").Handler()})
	golog.SetAllLoggers(golog.LevelFatal)
}

// quiet takes warnings and errors down to debug and drops the rest.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
