package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/danielgtaylor/huma/v2"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// statuses is the one table from causes to HTTP statuses.
var statuses = []struct {
	cause  error
	status int
}{
	{attach.ErrNoPod, http.StatusNotFound},
	{attach.ErrNoAttachment, http.StatusNotFound},
	{attach.ErrNoLeftover, http.StatusNotFound},
	{netns.ErrGone, http.StatusNotFound},
	{netns.ErrOther, http.StatusNotFound},
	{attach.ErrConflict, http.StatusConflict},
	{meta.ErrForbidden, http.StatusForbidden},
	{meta.ErrNotFound, http.StatusUnprocessableEntity},
	{ipam.ErrInvalid, http.StatusUnprocessableEntity},
	{ipam.ErrTaken, http.StatusUnprocessableEntity},
	{ipam.ErrExhausted, http.StatusUnprocessableEntity},
	{etcd.ErrUnavailable, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
}

func problem(err error) error {
	if err == nil {
		return nil
	}
	var already huma.StatusError
	if errors.As(err, &already) {
		return already
	}
	status := http.StatusInternalServerError
	var e *types.Error
	if errors.As(err, &e) {
		status = fromCNI(e.Code)
	}
	for _, s := range statuses {
		if errors.Is(err, s.cause) {
			status = s.status
			break
		}
	}
	p := &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: err.Error()}
	if status == http.StatusServiceUnavailable {
		return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {"2"}})
	}
	return p
}

// fromCNI: what the caller can mend is 422, what time mends is 503.
func fromCNI(code uint) int {
	switch code {
	case types.ErrTryAgainLater, 50, 51:
		return http.StatusServiceUnavailable
	case types.ErrUnsupportedField, types.ErrIncompatibleCNIVersion, types.ErrDecodingFailure, types.ErrInvalidNetworkConfig, 100:
		return http.StatusUnprocessableEntity
	}
	return http.StatusInternalServerError
}
