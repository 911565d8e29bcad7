package attach

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// A pod was made again, and its old sandbox is still there: what the name leads to is the young one, and watchers
// are told of one set of interfaces at any time.
func TestAPodsNameLeadsToItsYoungestSandbox(t *testing.T) {
	type step struct {
		id   string
		made int // when, in seconds; 0: the record is gone
		end  bool
		want string   // the sandbox that the name leads to
		told []string // type, sandbox
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"the old one's DEL comes late", []step{
			{"old", 1, false, "old", []string{"ADDED old"}},
			{"new", 2, false, "new", []string{"DELETED old", "ADDED new"}},
			{"old", 1, true, "new", nil},
			{"old", 0, false, "new", nil},
			{"new", 0, false, "", []string{"DELETED new"}},
		}},
		{"the old one is recorded again", []step{
			{"old", 1, false, "old", []string{"ADDED old"}},
			{"new", 2, false, "new", []string{"DELETED old", "ADDED new"}},
			{"old", 1, false, "new", nil},
		}},
		{"a restart reads the young one first", []step{
			{"new", 2, false, "new", []string{"ADDED new"}},
			{"old", 1, false, "new", nil},
		}},
		{"the old one ends after its successor", []step{
			{"old", 1, false, "old", []string{"ADDED old"}},
			{"new", 2, false, "new", []string{"DELETED old", "ADDED new"}},
			{"new", 0, false, "old", []string{"DELETED new", "ADDED old"}},
			{"old", 0, false, "", []string{"DELETED old"}},
		}},
		{"the young one's DEL hangs, and the old one is there", []step{
			{"old", 1, false, "old", []string{"ADDED old"}},
			{"new", 2, false, "new", []string{"DELETED old", "ADDED new"}},
			{"new", 2, true, "old", []string{"DELETED new", "ADDED old"}},
			{"new", 0, false, "old", nil},
		}},
	} {
		e := engineOf(t)
		_, changes := e.Follow()
		for i, s := range c.steps {
			var record *Sandbox
			if s.made > 0 {
				record = &Sandbox{ContainerID: s.id, Namespace: "default", Pod: "p", Ending: s.end, CreatedAt: time.Unix(int64(s.made), 0),
					Attachments: []Attachment{{Spec: Spec{Interface: "net1"}, Status: Status{Phase: Ready}}}}
			}
			e.put(e.use(s.id), record)
			at := fmt.Sprintf("%s, step %d", c.name, i)
			pod, err := e.Pod("default", "p")
			if (err != nil) != (s.want == "") || err == nil && pod.ContainerID != s.want {
				t.Errorf("%s: the name leads to %+v, %v; want %s", at, pod, err, s.want)
			}
			var told []string
			entries, err := changes.Next(context.Background())
			for _, entry := range entries {
				for _, ev := range entry.Events {
					told = append(told, ev.Type+" "+ev.Sandbox.ContainerID)
				}
			}
			if err != nil || !slices.Equal(told, s.told) {
				t.Errorf("%s: told %v, %v; want %v", at, told, err, s.told)
			}
		}
	}
}

func TestASandboxIsYoungerThanTheOthersOfItsPodWhateverTheClockSays(t *testing.T) {
	e := engineOf(t)
	ahead := time.Now().Add(time.Hour).UTC()
	e.put(e.use("old"), &Sandbox{ContainerID: "old", Namespace: "default", Pod: "p", NetnsCookie: 1, CreatedAt: ahead})
	young := &Sandbox{ContainerID: "new", Namespace: "default", Pod: "p", NetnsCookie: 2}
	if at := e.createdAt(e.use("new"), young); !at.After(ahead) {
		t.Errorf("made at %s, the other at %s", at, ahead)
	}
	again := &Sandbox{ContainerID: "old", Namespace: "default", Pod: "p", NetnsCookie: 1}
	if at := e.createdAt(e.sandboxes["old"], again); !at.Equal(ahead) {
		t.Errorf("an ADD that is repeated makes the sandbox young: %s", at)
	}
}
