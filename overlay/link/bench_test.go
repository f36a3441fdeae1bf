//go:build linux

package link

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkLoopback sends datagrams of 1200 bytes as fast as it can and
// reports how many arrived per second.
func BenchmarkLoopback(b *testing.B) {
	for _, c := range []struct {
		name  string
		count int // datagrams a send
	}{{"single", 1}, {"runs of 8", 8}, {"runs of 50", 50}} {
		b.Run(c.name, func(b *testing.B) {
			p, q := open1(b, loopbacks[0]), open1(b, loopbacks[0])
			stop, received := make(chan bool), make(chan int)
			go func() {
				batch, n := NewBatch(), 0
				for {
					select {
					case <-stop:
						received <- n
						return
					default:
					}
					_, _ = unix.Poll([]unix.PollFd{{Fd: int32(q.Bulk[0].FD()), Events: unix.POLLIN}}, 20)
					_ = q.Bulk[0].Read(batch)
					for range batch.All {
						n++
					}
				}
			}()
			w, to, run := p.Bulk[0].Writer(), q.Probe.LocalAddr(), make([]byte, c.count*1200)
			for i := range c.count {
				run[i*1200] = 1
			}
			b.ReportAllocs()
			start := time.Now()
			for b.Loop() {
				if err := w.Send(to, run, 1200); err != nil {
					b.Fatal(err)
				}
			}
			took := time.Since(start)
			close(stop)
			n := <-received
			b.ReportMetric(float64(n)/took.Seconds(), "datagrams/s")
			b.ReportMetric(100*(1-float64(n)/float64(b.N*c.count)), "%lost")
		})
	}
}

// BenchmarkReadNothing is a read of an empty socket, as polling lanes make.
func BenchmarkReadNothing(b *testing.B) {
	p, batch := open1(b, loopbacks[0]), NewBatch()
	for b.Loop() {
		if err := p.Bulk[0].Read(batch); err != nil {
			b.Fatal(err)
		}
	}
}
