package etcd

import (
	"context"
	"net"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"google.golang.org/grpc/credentials"
)

// fresh are TLS credentials whose files are read at each handshake: the client's certificate and key, and
// the authorities. Files that are replaced are used without a restart; a pair that does not match, as one of
// its files is not replaced yet, fails that handshake only.
type fresh struct {
	files                            transport.TLSInfo
	credentials.TransportCredentials // as the files were at first
}

func newFresh(files transport.TLSInfo) (fresh, error) {
	cfg, err := files.ClientConfig()
	if err != nil {
		return fresh{}, err
	}
	return fresh{files, credentials.NewTLS(cfg)}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (f fresh) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	now, err := newFresh(f.files)
	if err != nil {
		return nil, nil, err
	}
	return now.TransportCredentials.ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials.
func (f fresh) Clone() credentials.TransportCredentials {
	return fresh{f.files, f.TransportCredentials.Clone()}
}
