package manifest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// The first and the longest wait after a watch has failed. No event tells that the kernel's limits on
// watches, which others use up as well, leave room again.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Run follows the directory until the context ends. It may be missing, come later, be removed and
// come again, and it and its files may be links that are led elsewhere.
func (s *Catalog) Run(ctx context.Context) {
	if s.dir == "" {
		return
	}
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := s.follow(ctx)
		if err == nil {
			return
		}
		s.failed(fmt.Errorf("watch manifests in %s: %w: changes are seen late", s.dir, err))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// failed keeps why there is no watch, for Errors; nil says that there is one.
func (s *Catalog) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.tell("manifests are not watched", s.watchErr, err)
	}
	s.watchErr = err
}

// follow returns nil once the context ends.
func (s *Catalog) follow(ctx context.Context) error {
	s.scan(nil) // whatever the watch says
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	var at *trails
	for {
		if at == nil {
			if at, err = watch(w, dir); err != nil {
				return err
			}
			s.failed(nil)
			s.scan(func(string) bool { return true }) // what was told meanwhile is lost
		}
		select {
		case e := <-w.Events:
			switch {
			case at.passed[e.Name] || filepath.Dir(e.Name) == at.dir && isLink(e.Name):
				at = nil // what leads to the directory, or from a link in it, has changed
			case filepath.Dir(e.Name) == at.dir:
				s.scan(func(name string) bool { return name == filepath.Base(e.Name) })
			}
		case err := <-w.Errors:
			s.log.Warn("watch of manifests", "directory", s.dir, "error", err)
			at = nil // events may be lost
		case <-ctx.Done():
			return nil
		}
	}
}

// trails are the ways to the directory and to what the links in it lead to.
type trails struct {
	dir    string          // where the directory is
	passed map[string]bool // each directory, link and file on the ways, up to the first that is missing
}

// watch watches the directories of all that is passed: they tell when a part of the way comes, goes or
// is led elsewhere. What changed between looking and watching is seen by looking again.
func watch(w *fsnotify.Watcher, dir string) (*trails, error) {
	for {
		at := walk(dir)
		for _, old := range w.WatchList() {
			_ = w.Remove(old) // gone with its directory, maybe
		}
		in := map[string]bool{at.dir: true}
		for name := range at.passed {
			in[filepath.Dir(name)] = true
		}
		for _, d := range slices.Sorted(maps.Keys(in)) { // those above come first
			if err := w.Add(d); err != nil && isDir(d) {
				return nil, err
			}
		}
		if again := walk(dir); again.dir == at.dir && maps.Equal(again.passed, at.passed) {
			return at, nil
		}
	}
}

func walk(dir string) *trails {
	at := &trails{passed: map[string]bool{}}
	at.dir = at.pass(dir)
	entries, _ := os.ReadDir(at.dir) // none if it is not there: its trail ends above it
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 && isManifest(e.Name()) {
			at.pass(filepath.Join(at.dir, e.Name()))
		}
	}
	return at
}

// maxLinks is how many links the kernel follows on one path.
const maxLinks = 40

// pass walks a path as the kernel does and returns where it leads, or where it ends.
func (at *trails) pass(path string) string {
	here, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0 && links <= maxLinks; {
		next := rest[0]
		rest = rest[1:]
		name := filepath.Join(here, next) // of "..", too: here is free of links
		at.passed[name] = true
		target, err := os.Readlink(name)
		if err == nil {
			links++
			rest = append(strings.Split(target, "/"), rest...)
			if filepath.IsAbs(target) {
				here = "/"
			}
			continue
		}
		here = name
		if _, err := os.Lstat(name); err != nil {
			break
		}
	}
	return here
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
