// Package cri asks the container runtime of this node, over its CRI socket, what has become of a pod's sandbox.
package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// None as an endpoint says that no runtime is to be asked.
const None = "none"

// sockets are those of the runtimes that are looked for: containerd's and CRI-O's.
var sockets = []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"}

// timeout bounds an answer.
const timeout = 5 * time.Second

// A Runtime is the node's container runtime. It is looked for at each question, as it may come later than the
// daemon.
type Runtime struct {
	sockets []string
	named   bool // by the configuration: it is there, whether it answers or not

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// New returns the runtime at an endpoint, a socket's path with or without "unix://". If it is empty it is
// any whose socket is there, below root: where the node's files are, "" for /.
func New(endpoint, root string) *Runtime {
	r := &Runtime{conns: map[string]*grpc.ClientConn{}}
	switch endpoint {
	case None:
	case "":
		for _, s := range sockets {
			r.sockets = append(r.sockets, filepath.Join(root, s))
		}
	default:
		r.sockets, r.named = []string{strings.TrimPrefix(endpoint, "unix://")}, true
	}
	return r
}

// Ended reports whether the runtime says that it has no sandbox of that container ID, or that it has stopped it; where
// there is more than one, whether all say so. asked is false if there is no runtime. An error says nothing of the
// sandbox.
func (r *Runtime) Ended(ctx context.Context, containerID string) (ended, asked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, socket := range r.there() {
		has, err := r.has(ctx, socket, containerID)
		switch {
		case status.Code(err) == codes.Unimplemented && !r.named:
			// It is no runtime of Kubernetes': Docker's containerd, say.
		case err != nil:
			return false, true, fmt.Errorf("ask the container runtime at %s for sandbox %s: %w", socket, containerID, err)
		case has:
			return false, true, nil
		default:
			ended, asked = true, true
		}
	}
	return ended, asked, nil
}

// has reports whether the runtime at a socket has a sandbox that it has not stopped.
func (r *Runtime) has(ctx context.Context, socket, containerID string) (bool, error) {
	conn, err := r.dial(socket)
	if err != nil {
		return false, err
	}
	resp, err := runtime.NewRuntimeServiceClient(conn).PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: containerID})
	switch {
	case status.Code(err) == codes.NotFound:
		return false, nil
	case err == nil && resp.GetStatus() == nil:
		return false, errors.New("the answer says nothing of it")
	}
	return resp.GetStatus().GetState() != runtime.PodSandboxState_SANDBOX_NOTREADY, err
}

// Close ends the connections.
func (r *Runtime) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
}

// there are the sockets of the runtimes that are there.
func (r *Runtime) there() (all []string) {
	for _, s := range r.sockets {
		if fi, err := os.Stat(s); r.named || err == nil && fi.Mode()&os.ModeSocket != 0 {
			all = append(all, s)
		}
	}
	return all
}

// dial returns the connection to a socket, which is made, and made again, when it is used.
func (r *Runtime) dial(socket string) (*grpc.ClientConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.conns[socket]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("container runtime at %s: %w", socket, err)
	}
	r.conns[socket] = c
	return c, nil
}
