package cni

import (
	"errors"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/fault"
)

// codes are the CNI error codes of the classes. An error that is a CNI error already, a delegate's for
// instance, keeps its code and details.
var codes = map[fault.Class]uint{
	fault.Internal:    cniwire.ErrDelegate,
	fault.NotFound:    types.ErrInvalidEnvironmentVariables,
	fault.Forbidden:   cniwire.ErrRefused,
	fault.Conflict:    cniwire.ErrRefused,
	fault.Invalid:     cniwire.ErrRefused,
	fault.RetryLater:  types.ErrTryAgainLater,
	fault.Unavailable: types.ErrTryAgainLater,
	fault.TimedOut:    types.ErrTryAgainLater,
}

// gone are words that make containerd take a failed DEL for a success; a known failure must not
// have them by accident.
var gone = strings.NewReplacer("not found", "missing", "no such file or directory", "no such path")

func toCNI(err error) *types.Error {
	msg := err.Error()
	var e *types.Error
	if !errors.As(err, &e) {
		return types.NewError(codes[fault.Of(err)], gone.Replace(msg), "")
	}
	if e.Details != "" {
		msg = strings.Replace(msg, "; "+e.Details, "", 1)
	}
	return types.NewError(e.Code, gone.Replace(msg), gone.Replace(e.Details))
}
