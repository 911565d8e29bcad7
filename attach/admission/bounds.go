package admission

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
)

// What anybody in the cluster may have of the webhook. The API server gives a review 3 s, and lets in what is not
// answered: those who send slowly, or nothing, must not keep it waiting.
const (
	maxBody      = 4 << 20         // two versions of an object of 1.5 MiB at most
	maxBodies    = 24 << 20        // of all requests together, as far as they have come: the pod has 128 MiB
	maxReviews   = 8               // at once
	reviewWait   = time.Second     // for others to be done
	readTimeout  = 2 * time.Second // of a whole request: the API server sends it at once
	writeTimeout = 8 * time.Second // from the header on
	idleTimeout  = 2 * time.Minute
	maxHeader    = 64 << 10
)

// NewServer returns a server that waits for nobody for long.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}

// errBusy says that there is no room for a request now.
var errBusy = errors.New("the webhook is reviewing as much as it can already")

// bounds are those of all requests together.
type bounds struct{ bytes, reviews *semaphore.Weighted }

func newBounds() *bounds {
	return &bounds{semaphore.NewWeighted(maxBodies), semaphore.NewWeighted(maxReviews)}
}

// chunk is how much of a body is read at a time.
const chunk = 32 << 10

// read reads a request's body. What has come of it counts, until release is called, and not what is announced.
func (b *bounds) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	held := int64(0)
	release = func() { b.bytes.Release(held) }
	from := http.MaxBytesReader(w, r.Body, maxBody)
	for {
		if !b.bytes.TryAcquire(chunk) {
			return nil, release, errBusy
		}
		held += chunk
		next := make([]byte, chunk)
		n, err := io.ReadFull(from, next)
		body = append(body, next[:n]...)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return body, release, nil
		case err != nil:
			return nil, release, err
		}
	}
}

// begin waits until there is room for a review; end makes room for the next.
func (b *bounds) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reviewWait)
	defer cancel()
	if b.reviews.Acquire(ctx, 1) != nil {
		return errBusy
	}
	return nil
}

func (b *bounds) end() { b.reviews.Release(1) }
