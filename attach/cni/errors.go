package cni

import (
	"context"
	"errors"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// codes is the one table from causes to CNI error codes. An error that is a CNI error already, a
// delegate's for instance, keeps its code and details.
var codes = []struct {
	cause error
	code  uint
}{
	{etcd.ErrUnavailable, types.ErrTryAgainLater},
	{etcd.ErrConflict, types.ErrTryAgainLater},
	{meta.ErrUnavailable, types.ErrTryAgainLater},
	{meta.ErrReplaced, types.ErrTryAgainLater},
	{context.DeadlineExceeded, types.ErrTryAgainLater},
	{meta.ErrNotFound, types.ErrInvalidNetworkConfig},
	{meta.ErrForbidden, cniwire.ErrRefused},
	{ipam.ErrInvalid, cniwire.ErrRefused},
	{ipam.ErrTaken, cniwire.ErrRefused},
	{ipam.ErrExhausted, cniwire.ErrRefused},
	{netns.ErrGone, types.ErrInvalidEnvironmentVariables},
	{netns.ErrOther, types.ErrInvalidEnvironmentVariables},
	{netns.ErrHost, types.ErrInvalidEnvironmentVariables},
}

// gone are words that make containerd take a failed DEL for a success; a known failure must not
// have them by accident.
var gone = strings.NewReplacer("not found", "missing", "no such file or directory", "no such path")

func toCNI(err error) *types.Error {
	var e *types.Error
	if errors.As(err, &e) {
		msg := err.Error()
		if e.Details != "" {
			msg = strings.Replace(msg, "; "+e.Details, "", 1)
		}
		return types.NewError(e.Code, gone.Replace(msg), gone.Replace(e.Details))
	}
	code := cniwire.ErrDelegate
	for _, c := range codes {
		if errors.Is(err, c.cause) {
			code = c.code
			break
		}
	}
	return types.NewError(code, gone.Replace(err.Error()), "")
}
