package etcd

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestAnEtcdThatDoesNotAnswerIsNamed(t *testing.T) {
	c, err := Dial(Options{Endpoints: []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err = Ready(ctx, c, "key")
	if want := "etcd does not answer at http://127.0.0.1:1, http://127.0.0.1:2: "; err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %q", err, want)
	}
}
