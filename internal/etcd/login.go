package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A login gives each request the token that etcd wants to see. clientv3's own keeps the password that it is made
// with, and fails when etcd is away at that moment; this one reads the password's file whenever etcd wants
// a new token, as it does once the password is changed.
type login struct {
	username, passwordFile string

	turn  chan struct{} // one asks for a token at a time
	known bool          // token is what etcd has answered last
	token string        // empty: etcd's users are not enabled
}

func newLogin(username, passwordFile string) *login {
	return &login{username: username, passwordFile: passwordFile, turn: make(chan struct{}, 1)}
}

// password reads the file.
func (l *login) password() (string, error) {
	b, err := os.ReadFile(l.passwordFile)
	if err != nil {
		return "", fmt.Errorf("etcd password: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (l *login) options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.unary), grpc.WithChainStreamInterceptor(l.stream)}
}

// unary sends a request, and once more with a new token if etcd does not take the old one: then it has not
// looked at the request.
func (l *login) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, asks := req.(*etcdserverpb.AuthenticateRequest); asks {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	token, err := l.tokenFor(ctx, cc, nil)
	if err != nil {
		return err
	}
	err = invoke(with(ctx, token), method, req, reply, cc, opts...)
	if !refused(err) {
		return err
	}
	if token, err = l.tokenFor(ctx, cc, &token); err != nil {
		return err
	}
	return invoke(with(ctx, token), method, req, reply, cc, opts...)
}

// stream begins a stream with a token of its own: that an old one is refused would be seen later only, and ends
// the stream.
func (l *login) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, begin grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	old, err := l.tokenFor(ctx, cc, nil)
	if err != nil {
		return nil, err
	}
	token, err := l.tokenFor(ctx, cc, &old)
	if err != nil {
		return nil, err
	}
	return begin(with(ctx, token), desc, cc, method, opts...)
}

// tokenFor returns the token, another one than the old if that is given.
func (l *login) tokenFor(ctx context.Context, cc *grpc.ClientConn, old *string) (string, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	}
	if l.known && (old == nil || *old != l.token) {
		return l.token, nil
	}
	password, err := l.password()
	if err != nil {
		return "", status.Error(codes.Unauthenticated, err.Error())
	}
	answer, err := etcdserverpb.NewAuthClient(cc).Authenticate(ctx, &etcdserverpb.AuthenticateRequest{Name: l.username, Password: password}, grpc.WaitForReady(true))
	switch {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled):
		l.known, l.token = true, ""
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return "", status.Errorf(codes.Unauthenticated, "etcd refuses user %s with the password in %s", l.username, l.passwordFile)
	case err != nil:
		return "", err
	default:
		l.known, l.token = true, answer.Token
	}
	return l.token, nil
}

func with(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// refused reports whether etcd wants another token.
func refused(err error) bool {
	for _, e := range []error{rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrUserEmpty} {
		if errors.Is(rpctypes.Error(err), e) {
			return true
		}
	}
	return false
}
