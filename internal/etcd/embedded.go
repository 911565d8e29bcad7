// Package etcd starts or reaches etcd, and commits to it in groups.
package etcd

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// An Embedded is a single-member etcd inside this process.
type Embedded struct {
	etcd   *embed.Etcd
	Client *clientv3.Client // speaks to the member directly, without a connection
}

// SocketName is the unix socket of an embedded etcd, in its directory's parent: what etcdctl is
// pointed to (--endpoints unix://...).
const SocketName = "etcd.sock"

// StartEmbedded starts etcd with its data in stateDir/etcd, serving clients on the unix socket
// stateDir/etcd.sock, and waits until it is ready. It has no peer listener: there are no peers.
func StartEmbedded(ctx context.Context, stateDir string) (*Embedded, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	socket := filepath.Join(stateDir, SocketName)
	if len(socket) > 107 {
		return nil, fmt.Errorf("etcd socket path %s is longer than the 107 bytes a unix socket can have: choose a shorter stateDir", socket)
	}
	cfg := embed.NewConfig()
	cfg.Name = "patchbay"
	cfg.Dir = filepath.Join(stateDir, "etcd")
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}} // a name only
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.MaxTxnOps = 4096
	cfg.SnapshotCount = 1000 // entries kept in memory; the default of 10000 costs tens of MB
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = "5m"
	cfg.QuotaBackendBytes = 2 << 30
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quietLogger())

	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
		err = os.Chmod(socket, 0o600)
	case err = <-e.Err():
	case <-ctx.Done():
		err = fmt.Errorf("it is not ready: %w", context.Cause(ctx))
	}
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("embedded etcd in %s: %w", cfg.Dir, err)
	}
	return &Embedded{etcd: e, Client: v3client.New(e.Server)}, nil
}

// Close stops the member and waits for it.
func (e *Embedded) Close() {
	_ = e.Client.Close()
	e.etcd.Close()
}

// Err reports that the member has failed.
func (e *Embedded) Err() <-chan error { return e.etcd.Err() }

// quietLogger passes on only what ends etcd. The rest, even at level error, tells an operator nothing: what
// fails reaches us as an error.
func quietLogger() *zap.Logger {
	return zap.Must(zap.NewProduction(zap.IncreaseLevel(zap.PanicLevel))) // standard error is always there
}
