package etcd

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/patchbay-cni/patchbay/internal/fault"
)

// ErrTooLarge says that a transaction is more than etcd takes in one.
var ErrTooLarge = fault.New(fault.Invalid, "it is more than etcd takes in one transaction")

// refusal says why etcd refuses a transaction, and for its limits how to raise them.
func refusal(t Txn, err error) error {
	first, size := "", 0
	for _, op := range t.operations {
		if size += len(op.KeyBytes()) + len(op.ValueBytes()); first == "" {
			first = string(op.KeyBytes())
		}
	}
	switch {
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: %d operations under %d conditions, the first on %s: raise etcd's --max-txn-ops (128 by default), or have the pod ask for fewer addresses",
			ErrTooLarge, len(t.operations), len(t.conditions), first)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), status.Code(err) == codes.ResourceExhausted:
		return fmt.Errorf("%w: %d KiB, the first of it %s: raise etcd's --max-request-bytes (1.5 MiB by default), or have the pod ask for fewer networks, or such with shorter configurations",
			ErrTooLarge, size>>10, first)
	}
	return fmt.Errorf("etcd: %w", err)
}
