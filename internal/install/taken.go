package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Taken knows whether a runtime takes a configuration of ours from a directory: it takes the first by name, and others
// write there, and rename what they find, too.
type Taken struct {
	dir string

	mu   sync.Mutex
	last string // where ours was found last, or is to be; empty: nowhere yet, and there need not be one
}

// NewTaken returns what knows it of a directory. expected is the name under which ours is to be there, if it has one.
func NewTaken(dir, expected string) *Taken { return &Taken{dir: dir, last: expected} }

// Check says which file of ours the runtime takes, or why it takes none.
func (t *Taken) Check() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries, err := os.ReadDir(t.dir)
	if err != nil && (t.last != "" || !errors.Is(err, fs.ErrNotExist)) {
		return "", err
	}
	var before []string
	for _, e := range entries {
		switch {
		case !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())):
		case !isOurs(filepath.Join(t.dir, e.Name())):
			before = append(before, e.Name())
		case len(before) > 0 && t.last == "": // it never was
			return e.Name() + " is not what the runtime takes", nil
		case len(before) > 0:
			return "", fmt.Errorf("the runtime takes %s before %s: pods start without Patchbay", strings.Join(before, ", "), e.Name())
		default:
			t.last = e.Name()
			return filepath.Join(t.dir, e.Name()) + " is the runtime's first", nil
		}
	}
	if t.last != "" {
		return "", fmt.Errorf("no CNI configuration in %s leads to Patchbay: %s was renamed or removed, and pods start without Patchbay, or not at all", t.dir, t.last)
	}
	return "no runtime calls Patchbay by " + t.dir, nil
}

// isOurs reports whether a configuration is of our meta-plugin.
func isOurs(path string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	type plugin struct {
		Type string `json:"type"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	return json.Unmarshal(b, &conf) == nil && slices.Contains(append(conf.Plugins, conf.plugin), plugin{names[0]})
}
