package etcd

import (
	"log/slog"
	"os"
	"testing"
)

// The daemon may be killed between any two steps of a write: the copy is then as it was, or as it is to be.
func TestACopyIsWholeWhereverItsWritingWasCutOff(t *testing.T) {
	dir := t.TempDir()
	open := func() *Mirror {
		m, err := OpenMirror(dir, "boot", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	put := func(value string) []byte {
		m.add([]Copy{{Key: "/k", Value: value, Revision: int64(len(value))}})
		m.flush()
		b, err := os.ReadFile(m.path("/k"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before, after := put("a"), put("ab")
	for what, c := range map[string]struct {
		path, temporary []byte
		want            string
	}{
		"before the first step":      {before, nil, "a"},
		"in the new file":            {before, after[:len(after)/2], "a"},
		"after the new file":         {before, after, "a"},
		"without the old file":       {nil, after, "ab"},
		"after the last step":        {after, nil, "ab"},
		"in the first file of a key": {nil, after[:len(after)/2], ""},
	} {
		for path, b := range map[string][]byte{m.path("/k"): c.path, m.path("/k") + temporary: c.temporary} {
			_ = os.Remove(path)
			if b != nil {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		again := open()
		have, is := again.Copy("/k")
		if have.Value != c.want || is != (c.want != "") || again.Revisions()["/k"] != int64(len(c.want)) {
			t.Errorf("cut off %s: %+v, %v", what, have, again.Revisions())
		}
		if left, _ := os.ReadDir(dir); len(left) != len(again.Revisions()) {
			t.Errorf("cut off %s: left are %v", what, left)
		}
	}
}

// While the disk takes nothing, the mirror knows what it could not write, and writes it later.
func TestACopyThatCannotBeWrittenIsWrittenLater(t *testing.T) {
	dir := t.TempDir()
	m, err := OpenMirror(dir, "boot", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	put := func(value string) {
		m.add([]Copy{{Key: "/k", Value: value, Revision: int64(len(value))}})
		m.flush()
	}
	put("a")
	obstacle := m.path("/k") + temporary
	if err := os.Mkdir(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	put("ab")
	put("abc")
	onDisk, err := readCopy(m.path("/k"))
	if c, _ := m.Copy("/k"); err != nil || c.Value != "abc" || onDisk.Value != "a" || len(m.pending) != 1 {
		t.Errorf("it is %q, on the disk %q, and pending are %v, %v", c.Value, onDisk.Value, m.pending, err)
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	m.flush()
	if c, err := readCopy(m.path("/k")); err != nil || c.Value != "abc" {
		t.Errorf("on the disk it is %q, %v", c.Value, err)
	}
}
