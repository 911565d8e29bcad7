// Package manifest is the source of pods and networks of a node without Kubernetes: a watched
// directory of YAML manifests.
package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/patchbay-cni/patchbay/meta"
)

// A Source reads Pod and NetworkAttachmentDefinition manifests from a directory. A file that can't
// be read is reported and leaves what its last good version said; the other files are not
// disturbed.
type Source struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	files map[string]file // by path
}

type file struct {
	modified time.Time
	size     int64
	objects  objects
	err      error
}

// New returns a source for the directory, which need not exist yet; "" has nothing in it.
func New(dir string, log *slog.Logger) *Source {
	s := &Source{dir: dir, log: log, files: map[string]file{}}
	s.scan()
	return s
}

// Run watches the directory until the context ends.
func (s *Source) Run(ctx context.Context) error {
	if s.dir == "" {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer w.Close()
	if err := w.Add(s.dir); err != nil {
		return fmt.Errorf("watch manifests in %s: %w", s.dir, err)
	}
	s.scan()
	for {
		select {
		case <-w.Events:
			s.scan()
		case err := <-w.Errors:
			s.log.Warn("watch of manifests", "directory", s.dir, "error", err)
			s.scan()
		case <-ctx.Done():
			return nil
		}
	}
}

// Errors returns what is wrong with which file, by path.
func (s *Source) Errors() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := map[string]error{}
	for path, f := range s.files {
		if f.err != nil {
			errs[path] = f.err
		}
	}
	return errs
}

// Pod implements meta.Source.
func (s *Source) Pod(_ context.Context, namespace, name, uid string) (*meta.Pod, error) {
	p, err := find(s, func(o objects) *meta.Pod { return o.pods[key{namespace, name}] },
		fmt.Sprintf("pod %s/%s", namespace, name))
	if err == nil && !p.Is(uid) {
		return nil, fmt.Errorf("pod %s/%s has UID %s, the sandbox is for %s: %w", namespace, name, p.UID, uid, meta.ErrReplaced)
	}
	return p, err
}

// Network implements meta.Source.
func (s *Source) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	return find(s, func(o objects) *meta.Network { return o.networks[key{namespace, name}] },
		fmt.Sprintf("NetworkAttachmentDefinition %s/%s", namespace, name))
}

// Networks returns all networks, sorted by namespace and name.
func (s *Source) Networks() []meta.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []meta.Network
	for _, f := range s.files {
		for _, n := range f.objects.networks {
			all = append(all, *n)
		}
	}
	slices.SortFunc(all, func(a, b meta.Network) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	return all
}

// find looks in what is known, and once more in the directory itself: the watch may be behind.
func find[T any](s *Source, pick func(objects) *T, what string) (*T, error) {
	for range 2 {
		s.mu.Lock()
		for _, path := range slices.Sorted(maps.Keys(s.files)) {
			if o := pick(s.files[path].objects); o != nil {
				s.mu.Unlock()
				return o, nil
			}
		}
		s.mu.Unlock()
		s.scan()
	}
	hint := ""
	for path, err := range s.Errors() {
		hint = fmt.Sprintf("; %s can't be read: %v", filepath.Base(path), err)
	}
	if s.dir == "" {
		return nil, fmt.Errorf("%s: %w: standalone.manifests names no directory", what, meta.ErrNotFound)
	}
	return nil, fmt.Errorf("%s: %w in %s%s", what, meta.ErrNotFound, s.dir, hint)
}

// scan reads the files that are new or have changed.
func (s *Source) scan() {
	if s.dir == "" {
		return
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("read manifests", "directory", s.dir, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" && ext != ".json" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		seen[path] = true
		have, known := s.files[path]
		if known && have.modified.Equal(info.ModTime()) && have.size == info.Size() {
			continue
		}
		f := file{modified: info.ModTime(), size: info.Size()}
		if f.objects, f.err = parseFile(path); f.err != nil {
			f.objects = have.objects
			s.log.Error("manifest can't be read; its last good version stays in force", "error", f.err)
		}
		s.files[path] = f
	}
	for path := range s.files {
		if !seen[path] {
			delete(s.files, path)
		}
	}
}
