package agent

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"farlan/measure"
	"farlan/overlay"
)

const (
	// sleepOver is the longest wait for a car's time without sleeping: a sleep ends
	// up to 100 µs late.
	sleepOver = 200 * time.Microsecond
	// tardy is by how much a car may be late before the others wait for it.
	tardy = 200 * time.Microsecond
	// together is how close cars follow each other that two threads send in turns.
	together = 50 * time.Microsecond
)

// A timetable says when each car of a train leaves. Several threads may use it.
type timetable struct {
	start overlay.Instant
	after []time.Duration // from the start on
	next  atomic.Int64    // car
	late  atomic.Int64    // nanoseconds, all that are left
}

func newTimetable(start overlay.Instant, plan measure.TrainPlan) *timetable {
	t := &timetable{start: start, after: make([]time.Duration, plan.Cars)}
	for i := 1; i < plan.Cars; i++ {
		t.after[i] = t.after[i-1] + plan.Gap(i)
	}
	return t
}

// take returns the next car and when it is due; ok is false if none is left. One that is
// a little late is due still, after a stall all that are left wait as if nothing had been.
func (t *timetable) take(now overlay.Instant) (car int, due overlay.Instant, ok bool) {
	car = int(t.next.Add(1)) - 1
	if car >= len(t.after) {
		return 0, 0, false
	}
	late := t.late.Load()
	due = t.start.Add(t.after[car] + time.Duration(late))
	if behind := now.Sub(due); behind > tardy {
		t.late.CompareAndSwap(late, late+int64(behind)) // another thread may have seen it
	}
	return car, due, true
}

// leave sends the cars. Where they are to follow closely two threads do: a shaper in this
// host works on the processor that sends, as soon as something waits in it, and one
// thread would get on no faster than it.
func (d *departure) leave(id uint32, plan measure.TrainPlan) {
	d.bytes += plan.Cars * plan.Size
	t := newTimetable(d.n.now(), plan)
	var second sync.WaitGroup
	if runtime.NumCPU() > 1 && plan.Gap(plan.Cars-1) < together {
		second.Go(func() { d.drive(id, plan.Size, t, d.cars[1]) })
	}
	d.drive(id, plan.Size, t, d.cars[0])
	second.Wait()
}

// drive sends cars until none is left.
func (d *departure) drive(id uint32, size int, t *timetable, send sendFunc) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	room := make([]byte, size-d.out.around)
	body := room[:len(room)-overlay.TagLen]
	for now := d.n.now(); ; {
		car, due, ok := t.take(now)
		if !ok {
			return
		}
		now = d.n.sleepUntil(due)
		head := overlay.AppendTrain(body[:overlay.HeaderLen], overlay.Train{Verb: overlay.TrainCar, ID: id, Number: uint16(car), Sent: now})
		clear(body[len(head):])
		b := d.out.session.Seal(overlay.KindTrain, 0, body)
		if b == nil {
			return
		}
		_ = send(d.out.way.Addr, b, len(b))
		now = d.n.now()
	}
}

// sleepUntil returns at a time, which is soon, as exactly as it can, and says what
// time it is.
func (n *node) sleepUntil(at overlay.Instant) overlay.Instant {
	for {
		now := n.now()
		left := at.Sub(now)
		if left <= 0 {
			return now
		}
		if left > sleepOver {
			wait := unix.NsecToTimespec(int64(left - sleepOver/2))
			_ = unix.Nanosleep(&wait, nil)
		}
	}
}
