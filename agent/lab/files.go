package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// maxFile is the longest file that host-a serves.
const maxFile = 1 << 30

// file returns the bytes of the file that host-a serves under /files/N, where N
// is their number: they look random and are always the same.
func file(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte([]byte("the files that host-a serves ..."))), n)
}

// fileSum returns the SHA-256 of a file of n bytes.
func fileSum(n int64) string {
	sum := sha256.New()
	_, _ = io.Copy(sum, file(n)) // neither end fails
	return hex.EncodeToString(sum.Sum(nil))
}

// fileURL returns where host-a serves a file of n bytes.
func fileURL(n int64) string { return fmt.Sprintf("http://%v:%d/files/%d", hostAIP, filePort, n) }

// serveFiles is host-a's file server; it ends with ctx.
func serveFiles(ctx context.Context, address string, out io.Writer) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files/{size}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("size"), 10, 64)
		if err != nil || n < 0 || n > maxFile {
			http.Error(w, fmt.Sprintf("a file's name is its size, 0 to %d", maxFile), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.Copy(w, file(n)) // it fails when the reader goes away
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, bytes.NewBufferString("host-a on the home LAN. /files/N is a file of N bytes.\n"))
	})
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("file server: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Fprintf(out, "serving on http://%s\n", address)
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("file server: %w", err)
	}
	return nil
}
