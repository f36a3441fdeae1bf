package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"farlan/overlay"
	"farlan/reserve"
)

const (
	journalFile = "reservations.journal"
	// journalLong is how long the journal gets before what is over is left out.
	journalLong = 1 << 20
	// journalAgain is how soon it is tried again to write it.
	journalAgain = time.Second
)

// A reserveJournal keeps what the broker must know after a crash. Its methods but run are the
// loop's; run writes, as a disk may take its time.
type reserveJournal struct {
	n    *node
	path string
	wake chan struct{} // holds a token while there is something to write

	// The loop's own.
	size int  // of the file when all is written
	lost bool // it couldn't be written: it is written anew

	mu    sync.Mutex // guards what follows
	bytes []byte     // that wait
	entry uint64     // up to which they say all
	whole bool       // they take the place of all before
}

// openJournal reads what an agent of before left. What makes no sense is kept aside.
func (n *node) openJournal() (*reserve.Journal, *reserveJournal) {
	j := &reserveJournal{n: n, path: filepath.Join(n.state.dir, journalFile), wake: make(chan struct{}, 1)}
	b, err := readBounded(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return reserve.ReadJournal(nil), j
	}
	known := reserve.ReadJournal(b)
	if err != nil || known.Torn > 0 {
		if err == nil {
			err = errTorn
		}
		n.log.Warn("starting without some reservations; what their drivers list is given back", "error", putAside(j.path, "journal of reservations", n.started, err))
		b = b[:len(b)-known.Torn]
		if err := writeFile(j.path, b); err != nil {
			n.log.Error("the journal of reservations can't be written", "error", err)
			j.lost = true
		}
	}
	j.size = len(b)
	return known, j
}

var errTorn = errors.New("its end makes no sense: a crash cut it short, or it is damaged")

// write appends entries.
func (j *reserveJournal) write(b []byte, entry uint64) {
	j.size += len(b)
	j.mu.Lock()
	j.bytes, j.entry = append(j.bytes, b...), entry
	j.mu.Unlock()
	j.rouse()
}

// long says that the journal is to be written anew: it became long, or couldn't be written.
func (j *reserveJournal) long() bool { return j.size > journalLong || j.lost }

// replace puts other entries in the place of all.
func (j *reserveJournal) replace(b []byte, entry uint64) {
	j.size, j.lost = len(b), false
	j.mu.Lock()
	j.bytes, j.entry, j.whole = b, entry, true
	j.mu.Unlock()
	j.rouse()
}

func (j *reserveJournal) rouse() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (j *reserveJournal) run(ctx context.Context) error {
	broken := false // half of an entry may be at the end
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-j.wake:
		}
		j.mu.Lock()
		b, entry, whole := j.bytes, j.entry, j.whole
		j.bytes, j.whole = nil, false
		j.mu.Unlock()
		err := errTorn
		if !broken || whole {
			err = j.save(b, whole)
		}
		broken = err != nil
		j.n.mail.put(func(overlay.Instant) { j.saved(entry, err) })
		if err == nil {
			continue
		}
		j.n.log.Error("reservations: nothing is asked for until the journal can be written", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(journalAgain):
		}
	}
}

// saved tells the broker what is safe. What couldn't be written may have left half of it there:
// then all is written anew.
func (j *reserveJournal) saved(entry uint64, err error) {
	r := &j.n.reserving
	if r.dirty = true; err != nil {
		j.lost = true
		return
	}
	r.broker.Written(entry)
}

func (j *reserveJournal) save(b []byte, whole bool) error {
	if whole {
		return writeFile(j.path, b)
	}
	_, missing := os.Stat(j.path)
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	n, err := f.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil && missing != nil {
		err = syncDir(j.path)
	}
	return err
}
