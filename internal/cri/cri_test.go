package cri

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A server answers as a container runtime does, by the published API.
type server struct {
	runtime.UnimplementedRuntimeServiceServer
}

func (server) PodSandboxStatus(_ context.Context, req *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	switch req.PodSandboxId {
	case "ready":
		return &runtime.PodSandboxStatusResponse{Status: &runtime.PodSandboxStatus{Id: "ready", State: runtime.PodSandboxState_SANDBOX_READY}}, nil
	case "stopped":
		return &runtime.PodSandboxStatusResponse{Status: &runtime.PodSandboxStatus{Id: "stopped", State: runtime.PodSandboxState_SANDBOX_NOTREADY}}, nil
	case "empty":
		return &runtime.PodSandboxStatusResponse{}, nil
	case "broken":
		return nil, status.Error(codes.Internal, "the database is locked")
	}
	return nil, status.Error(codes.NotFound, "an error occurred when try to find sandbox: not found")
}

// serve starts a runtime and returns what stops it.
func serve(t *testing.T, socket string) func() {
	t.Helper()
	s := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(s, server{})
	return listen(t, s, socket)
}

func listen(t *testing.T, s *grpc.Server, socket string) func() {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	stop := func() {
		s.Stop()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func TestTheRuntimeSaysWhichSandboxesHaveEnded(t *testing.T) {
	dir, err := os.MkdirTemp("", "cri") // short: a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	serve(t, socket)
	r := New("unix://"+socket, "")
	t.Cleanup(r.Close)
	for _, c := range []struct {
		id            string
		ended, failed bool
	}{
		{"ready", false, false},
		{"stopped", true, false},
		{"unknown", true, false},
		{"empty", false, true},
		{"broken", false, true},
	} {
		ended, asked, err := r.Ended(t.Context(), c.id)
		if ended != c.ended || !asked || (err != nil) != c.failed {
			t.Errorf("sandbox %s: ended %v, asked %v, error %v", c.id, ended, asked, err)
		}
	}
}

// In a container the node's files are below a directory.
func TestARuntimeIsLookedForBelowTheNodesRoot(t *testing.T) {
	root, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	r := New("", root)
	t.Cleanup(r.Close)
	if _, asked, err := r.Ended(t.Context(), "unknown"); asked || err != nil {
		t.Errorf("there is none: asked %v, error %v", asked, err)
	}
	if err := os.MkdirAll(root+"/run/crio", 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, root+"/run/crio/crio.sock")
	if ended, asked, err := r.Ended(t.Context(), "unknown"); !ended || !asked || err != nil {
		t.Errorf("ended %v, asked %v, error %v", ended, asked, err)
	}
}

// Docker brings a containerd without a CRI, which has no sandbox to tell of: it must neither keep pods that have ended
// for ever, nor be asked instead of the runtime that there is.
func TestAContainerdWithoutCRIIsNoRuntime(t *testing.T) {
	root, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	for _, dir := range []string{"/run/containerd", "/run/crio"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := New("", root)
	t.Cleanup(r.Close)
	listen(t, grpc.NewServer(), root+"/run/containerd/containerd.sock")
	if ended, asked, err := r.Ended(t.Context(), "unknown"); ended || asked || err != nil {
		t.Errorf("it alone: ended %v, asked %v, error %v", ended, asked, err)
	}
	serve(t, root+"/run/crio/crio.sock")
	for _, id := range []string{"unknown", "ready"} {
		if ended, asked, err := r.Ended(t.Context(), id); ended != (id == "unknown") || !asked || err != nil {
			t.Errorf("beside CRI-O, sandbox %s: ended %v, asked %v, error %v", id, ended, asked, err)
		}
	}
}

// A sandbox is one of the runtimes', and the others don't know it.
func TestASandboxOfTheSecondRuntimeHasNotEnded(t *testing.T) {
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &Runtime{sockets: []string{dir + "/a", dir + "/b"}, conns: map[string]*grpc.ClientConn{}}
	t.Cleanup(r.Close)
	other := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(other, empty{})
	listen(t, other, dir+"/a")
	serve(t, dir+"/b")
	for _, id := range []string{"unknown", "stopped", "ready"} {
		if ended, asked, err := r.Ended(t.Context(), id); ended != (id != "ready") || !asked || err != nil {
			t.Errorf("sandbox %s: ended %v, asked %v, error %v", id, ended, asked, err)
		}
	}
}

// An empty runtime has no sandbox.
type empty struct {
	runtime.UnimplementedRuntimeServiceServer
}

func (empty) PodSandboxStatus(context.Context, *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	return nil, status.Error(codes.NotFound, "not found")
}

func TestARuntimeThatDoesNotAnswerHasSaidNothing(t *testing.T) {
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	r := New(socket, "")
	t.Cleanup(r.Close)
	if ended, asked, err := r.Ended(t.Context(), "unknown"); ended || !asked || err == nil {
		t.Errorf("nothing listens: ended %v, asked %v, error %v", ended, asked, err)
	}
	stop := serve(t, socket)
	stop()
	if ended, asked, err := r.Ended(t.Context(), "unknown"); ended || !asked || err == nil {
		t.Errorf("it has stopped: ended %v, asked %v, error %v", ended, asked, err)
	}
}

func TestWhereThereIsNoRuntimeNoneIsAsked(t *testing.T) {
	for _, r := range []*Runtime{New(None, ""), {sockets: []string{"/nowhere/containerd.sock"}}} {
		if ended, asked, err := r.Ended(t.Context(), "unknown"); ended || asked || err != nil {
			t.Errorf("ended %v, asked %v, error %v", ended, asked, err)
		}
	}
}
