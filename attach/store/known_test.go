package store

import (
	"errors"
	"testing"

	"github.com/patchbay-cni/patchbay/attach"
)

func (s *Store) value(t *testing.T, sb *attach.Sandbox) string {
	t.Helper()
	resp, err := s.KV.Get(t.Context(), s.key(sb))
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// What somebody else has made of a record, an earlier one of the node's own put back as well, is neither written over nor
// removed; and one that was removed, and is there again, is not either.
func TestARecordThatSomebodyElseHasChangedStays(t *testing.T) {
	s, ctx := newStore(t, Key("k")), t.Context()
	sb := &attach.Sandbox{ContainerID: "c", Namespace: "a", Pod: "p"}
	if err := s.Save(ctx, sb, nil); err != nil {
		t.Fatal(err)
	}
	earlier := s.value(t, sb)
	if err := s.Save(ctx, sb, nil); err != nil {
		t.Fatal(err)
	}
	for _, changed := range []string{"{}", earlier} {
		if _, err := s.KV.Put(ctx, s.key(sb), changed); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(ctx, sb, nil); !errors.Is(err, attach.ErrChanged) {
			t.Errorf("written over %q: %v", changed, err)
		}
		if have := s.value(t, sb); have != changed {
			t.Errorf("it is %q, and was %q", have, changed)
		}
	}
	for range 2 {
		if err := s.Remove(ctx, sb, nil); !errors.Is(err, attach.ErrChanged) || s.value(t, sb) != earlier {
			t.Errorf("removed: %v", err)
		}
	}
}

// Answers of etcd were lost, so that the node does not know which of its own records is there.
func TestARecordWhoseAnswerWasLostIsWrittenOver(t *testing.T) {
	s, ctx := newStore(t, Key("k")), t.Context()
	wrote := New(s.Options) // what it does, s has no answer of
	sb := &attach.Sandbox{ContainerID: "c", Namespace: "a", Pod: "p"}
	for _, step := range []func() error{
		func() error { return wrote.Save(ctx, sb, nil) },
		func() error { return s.Save(ctx, sb, nil) },
		func() error { wrote.known.Clear(); return wrote.Save(ctx, sb, nil) },
		func() error { return s.Save(ctx, sb, nil) },
		func() error { wrote.known.Clear(); return wrote.Remove(ctx, sb, nil) },
		func() error { return s.Remove(ctx, sb, nil) },
		func() error { return wrote.Save(ctx, sb, nil) },
		func() error { return s.Remove(ctx, sb, nil) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if have := s.value(t, sb); have != "" {
		t.Errorf("%q is left", have)
	}
}
