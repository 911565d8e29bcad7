package store

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/internal/etcd"
)

func newStore(t *testing.T, key Key) *Store {
	t.Helper()
	state, err := os.MkdirTemp("", "store") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	e, err := etcd.StartEmbedded(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return New(Options{KV: e.Client, Commit: etcd.NewCommitter(e.Client), Prefix: "/p", Node: "n1", Key: key, Log: slog.New(slog.DiscardHandler),
		Vet: func(*attach.Sandbox) error { return os.ErrPermission }})
}

// A pod's name leads to the sandbox that came last, whichever is written last, and goes with it.
func TestAPodsNameLeadsToTheSandboxThatCameLast(t *testing.T) {
	s, ctx := newStore(t, Key("k")), context.Background()
	old, young := &attach.Sandbox{ContainerID: "old", Namespace: "a", Pod: "p"}, &attach.Sandbox{ContainerID: "young", Namespace: "a", Pod: "p"}
	leads := func(want string) {
		t.Helper()
		resp, err := s.KV.Get(ctx, "/p/pods/a/p")
		if err != nil {
			t.Fatal(err)
		}
		have := ""
		if len(resp.Kvs) > 0 {
			have = string(resp.Kvs[0].Value)
		}
		if (want == "") != (have == "") || !strings.Contains(have, want) {
			t.Errorf("the name leads to %q, not %q", have, want)
		}
	}
	begun := *young
	begun.Ending = true // its ADD is not answered yet
	for _, sb := range []*attach.Sandbox{old, &begun, young, old} {
		if err := s.Save(ctx, sb, nil); err != nil {
			t.Fatal(err)
		}
	}
	leads("young")
	if err := s.Remove(ctx, old, nil); err != nil {
		t.Fatal(err)
	}
	leads("young")
	if err := s.Remove(ctx, young, nil); err != nil {
		t.Fatal(err)
	}
	leads("")
}

// What this node has written it takes as it is. All else is checked first: a changed value, one that was moved, and one
// without a signature, or with another key's.
func TestOnlyWhatThisNodeHasWrittenIsTakenAsItIs(t *testing.T) {
	s, ctx := newStore(t, Key("k")), context.Background()
	if err := s.Save(ctx, &attach.Sandbox{ContainerID: "c", Netns: "/run/netns/x"}, nil); err != nil {
		t.Fatal(err)
	}
	resp, err := s.KV.Get(ctx, "/p/sandboxes/n1/c")
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatal(resp, err)
	}
	value := string(resp.Kvs[0].Value)
	signature := value[strings.LastIndex(value, `,"signature"`):]
	for what, v := range map[string]string{
		"changed":                strings.Replace(value, "/run/netns/x", "/run/netns/y", 1),
		"with a field more":      strings.Replace(value, "{", `{"uid":"u",`, 1),
		"with two signatures":    value[:len(value)-1] + signature,
		"without a signature":    strings.Replace(value, signature, "}", 1),
		"with an empty one":      strings.Replace(value, signature, `,"signature":""}`, 1),
		"with something behind":  value + " ",
		"with another signature": strings.Replace(value, signature, `,"signature":"00ff"}`, 1),
	} {
		if _, err := s.read("/p/sandboxes/n1/c", []byte(v), nil); err == nil {
			t.Errorf("%s: it is taken: %s", what, v)
		}
	}
	if _, err := s.read("/p/sandboxes/n1/c", []byte(value), nil); err != nil {
		t.Errorf("as it was written: %v", err)
	}
	if (Key("k")).sealed("/p/sandboxes/n2/c", []byte(value)) || (Key("other")).sealed("/p/sandboxes/n1/c", []byte(value)) {
		t.Error("a record of another place or key is taken for ours")
	}
}
