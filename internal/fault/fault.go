// Package fault classifies errors by what a caller can do about them. There is one classification;
// the doors make a CNI code, an HTTP status or the reason of an Event of it, in one table each.
package fault

import (
	"context"
	"errors"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/internal/cniwire"
)

// A Class says what a caller can do about an error.
type Class int

// The classes.
const (
	Internal    Class = iota // a fault of ours, or an error that nobody has classified: read the log
	NotFound                 // what the request is about is not there
	Forbidden                // the caller may not
	Conflict                 // what is there stands against the request
	Invalid                  // the request, or a configuration it leads to, can't be honoured as it is
	RetryLater               // the same request will do in a moment
	Unavailable              // something that is needed is away: the same request will do once it is back
	TimedOut                 // the request was not finished in time: it is undone, and will do in a moment
)

// Passes reports whether time alone can end an error of the class.
func (c Class) Passes() bool { return c == RetryLater || c == Unavailable || c == TimedOut }

// classified is an error that knows its class.
type classified struct {
	class Class
	text  string
}

func (e *classified) Error() string { return e.text }

// New returns an error of a class, to be wrapped and compared with errors.Is.
func New(c Class, text string) error { return &classified{c, text} }

// Of returns the class of an error: that of the first error of its tree that has one. A CNI error, a
// plugin's for instance, is classified by its code (CNI 1.1.0 section 5).
func Of(err error) Class {
	switch e := err.(type) {
	case *classified:
		return e.class
	case *types.Error:
		return ofCode[e.Code]
	case interface{ Unwrap() error }:
		return Of(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if c := Of(part); c != Internal {
				return c
			}
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, context.Canceled): // the caller has left, or the daemon ends
		return RetryLater
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE): // other calls have all files, and will close them
		return RetryLater
	}
	return Internal
}

// ofCode has the classes of CNI codes; all others are Internal.
var ofCode = map[uint]Class{
	types.ErrTryAgainLater:        RetryLater,
	cniwire.ErrPluginNotAvailable: Unavailable, cniwire.ErrLimitedConnection: Unavailable,
	types.ErrUnsupportedField: Invalid, types.ErrIncompatibleCNIVersion: Invalid, types.ErrDecodingFailure: Invalid,
	types.ErrInvalidNetworkConfig: Invalid, cniwire.ErrRefused: Invalid,
	types.ErrUnknownContainer: NotFound, types.ErrInvalidEnvironmentVariables: NotFound,
}
