package manifest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// Run follows the directory until the context ends. It may be missing, come later, be removed and
// come again, or be a link that is led elsewhere: the nearest directory above that is there tells.
func (s *Source) Run(ctx context.Context) error {
	if s.dir == "" {
		return nil
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return fmt.Errorf("watch manifests in %s: %w", s.dir, err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests in %s: %w", s.dir, err)
	}
	defer w.Close()
	for again := true; ; {
		if again {
			if err := watch(w, dir); err != nil {
				return fmt.Errorf("watch manifests in %s: %w", s.dir, err)
			}
			again = false
			s.scan()
		}
		select {
		case e := <-w.Events:
			switch {
			case e.Name == dir || strings.HasPrefix(dir, strings.TrimSuffix(e.Name, "/")+"/"):
				again = true // the directory, or one above it, has come or gone
			case filepath.Dir(e.Name) == dir:
				s.scan()
			}
		case err := <-w.Errors:
			s.log.Warn("watch of manifests", "directory", s.dir, "error", err)
			again = true // events may be lost
		case <-ctx.Done():
			return nil
		}
	}
}

// watch watches the directory, if it is there, and the nearest one above it that is there.
func watch(w *fsnotify.Watcher, dir string) error {
	for _, old := range w.WatchList() {
		_ = w.Remove(old) // gone with its directory, maybe
	}
	for {
		above := filepath.Dir(dir)
		for above != "/" && !isDir(above) {
			above = filepath.Dir(above)
		}
		if err := w.Add(above); err != nil {
			if !isDir(above) {
				continue // removed meanwhile
			}
			return err
		}
		if err := w.Add(dir); err != nil && isDir(dir) {
			return err
		}
		// What was made between looking and watching is not told.
		if next := filepath.Join(above, firstElement(dir[len(above):])); next == dir || !isDir(next) {
			return nil
		}
		_ = w.Remove(above)
	}
}

func firstElement(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
