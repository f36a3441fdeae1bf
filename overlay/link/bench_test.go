//go:build linux

package link

import (
	"testing"
	"time"
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
			received := make(chan int)
			go func() {
				batch, n := NewBatch(), 0
				for q.Data.Read(batch) == nil {
					for range batch.All {
						n++
					}
				}
				received <- n
			}()
			w, to, run := p.Data.Writer(), q.Data.LocalAddr(), make([]byte, c.count*1200)
			b.ReportAllocs()
			start := time.Now()
			for b.Loop() {
				if err := w.Send(to, run, 1200); err != nil {
					b.Fatal(err)
				}
			}
			took := time.Since(start)
			_ = q.Close()
			n := <-received
			b.ReportMetric(float64(n)/took.Seconds(), "datagrams/s")
			b.ReportMetric(100*(1-float64(n)/float64(b.N*c.count)), "%lost")
		})
	}
}
