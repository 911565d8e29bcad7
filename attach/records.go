package attach

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/patchbay-cni/patchbay/internal/txn"
)

// steady are Records of which a panic is an answer that is lost: the servers survive it, and the engine would go on
// with what it knew before a change that may have been committed.
type steady struct {
	Records
	log *slog.Logger
}

func (r steady) Save(ctx context.Context, s *Sandbox, with txn.Txn) (err error) {
	defer r.survive(s, &err)
	return r.Records.Save(ctx, s, with)
}

func (r steady) Remove(ctx context.Context, s *Sandbox, with txn.Txn) (err error) {
	defer r.survive(s, &err)
	return r.Records.Remove(ctx, s, with)
}

func (r steady) survive(s *Sandbox, err *error) {
	if v := recover(); v != nil {
		r.log.Error("panic while a record is written", "sandbox", s.ContainerID, "value", v, "stack", string(debug.Stack()))
		*err = fmt.Errorf("%w: internal error: %v", txn.ErrUnavailable, v)
	}
}
