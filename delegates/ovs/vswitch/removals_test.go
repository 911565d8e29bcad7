package vswitch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// A step is what happens to the removals: ovs-vswitchd's answer, a removal, a new connection.
type step func(*removals)

func answered(cur int) step { return func(r *removals) { r.answered(cur) } }
func removed(asked int, names ...string) step {
	return func(r *removals) { r.removed(names, asked) }
}
func connected(next, cur int) step {
	return func(r *removals) { r.connected(OpenVSwitch{NextCfg: next, CurCfg: cur}) }
}

func TestANameIsUsedAgainOnceTheSwitchHasAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		steps []step
		open  map[string]bool // by name: whether it is to be waited for
	}{
		"nothing was removed":                       {[]step{connected(3, 3)}, map[string]bool{"a": false}},
		"a removal is not answered":                 {[]step{connected(3, 3), removed(4, "a")}, map[string]bool{"a": true, "b": false}},
		"a removal is answered":                     {[]step{connected(3, 3), removed(4, "a"), answered(4)}, map[string]bool{"a": false}},
		"a later answer is one, too":                {[]step{connected(3, 3), removed(4, "a"), answered(9)}, map[string]bool{"a": false}},
		"the answer came before the transaction's":  {[]step{connected(3, 3), answered(4), removed(4, "a")}, map[string]bool{"a": false}},
		"an earlier answer is none":                 {[]step{connected(3, 3), removed(4, "a"), removed(5, "b"), answered(4)}, map[string]bool{"a": false, "b": true}},
		"a name was removed twice":                  {[]step{connected(3, 3), removed(4, "a"), removed(6, "a"), answered(5)}, map[string]bool{"a": true}},
		"a transaction removes several":             {[]step{connected(3, 3), removed(4, "a", "b")}, map[string]bool{"a": true, "b": true}},
		"what was asked before the connection":      {[]step{connected(5, 3)}, map[string]bool{"a": true, "b": true}},
		"what was asked before is answered":         {[]step{connected(5, 3), answered(5)}, map[string]bool{"a": false}},
		"the switch is behind at a new connection":  {[]step{connected(3, 3), removed(4, "a"), connected(4, 3)}, map[string]bool{"a": true}},
		"a new database forgets the old one's asks": {[]step{connected(8, 8), removed(9, "a"), connected(0, 0)}, map[string]bool{"a": false}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRemovals()
				for _, s := range c.steps {
					s(r)
				}
				for name, open := range c.open {
					over := errors.New("no answer")
					ctx, cancel := context.WithCancelCause(t.Context())
					done := make(chan error, 1)
					go func() { done <- r.wait(ctx, name) }()
					synctest.Wait()
					waits := len(done) == 0
					cancel(over)
					if err := <-done; waits != open || waits != errors.Is(err, over) {
						t.Errorf("%s: waited %v, %v", name, waits, err)
					}
				}
			})
		})
	}
}

func TestAWaitEndsWithTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemovals()
		connected(1, 1)(r)
		removed(3, "a")(r)
		done := make(chan error, 1)
		go func() { done <- r.wait(t.Context(), "a") }()
		answered(2)(r)
		synctest.Wait()
		if len(done) > 0 {
			t.Error("an earlier answer has ended it")
		}
		answered(3)(r)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNextCfgIsReadFromTheLastResult(t *testing.T) {
	for name, c := range map[string]struct {
		rows []ovsdb.Row
		want int
		ok   bool
	}{
		"one row":          {[]ovsdb.Row{{"next_cfg": 7.0}}, 7, true},
		"no row":           {nil, 0, false},
		"another column":   {[]ovsdb.Row{{"cur_cfg": 7.0}}, 0, false},
		"more than a root": {[]ovsdb.Row{{"next_cfg": 7.0}, {"next_cfg": 8.0}}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := nextCfg([]ovsdb.OperationResult{{Count: 1}, {Rows: c.rows}})
			if got != c.want || (err == nil) != c.ok {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}
