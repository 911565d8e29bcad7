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
	"strings"
	"sync"

	"github.com/containernetworking/cni/pkg/types"

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
	info    os.FileInfo
	objects objects
	err     error
}

// is reports whether the file is still the one that was read.
func (f *file) is(info os.FileInfo) bool {
	return f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size()
}

// New returns a source for the directory, which need not exist yet; "" has nothing in it.
func New(dir string, log *slog.Logger) *Source {
	s := &Source{dir: dir, log: log, files: map[string]file{}}
	s.scan()
	return s
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
	at := key{namespace, name}
	p, err := find(s, "Pod", at, func(o objects) *meta.Pod { return o.pods[at] })
	if err == nil && !p.Is(uid) {
		return nil, fmt.Errorf("pod %s/%s has UID %s, the sandbox is for %s: %w", namespace, name, p.UID, uid, meta.ErrReplaced)
	}
	return p, err
}

// Network implements meta.Source.
func (s *Source) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	at := key{namespace, name}
	return find(s, "NetworkAttachmentDefinition", at, func(o objects) *meta.Network { return o.networks[at] })
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
func find[T any](s *Source, kind string, at key, pick func(objects) *T) (*T, error) {
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
	what := strings.Replace(kind, "Pod", "pod", 1) + " " + at.namespace + "/" + at.name
	if s.dir == "" {
		return nil, fmt.Errorf("%s: %w: standalone.manifests names no directory", what, meta.ErrNotFound)
	}
	return nil, s.missing(kind, at, what)
}

// maxOthers is how many unreadable files an error tells.
const maxOthers = 3

// missing says why an object is not there: its manifest is broken, or no file has it. Files that
// can't be read, and may have it, are named.
func (s *Source) missing(kind string, at key, what string) error {
	var others []string
	errs := s.Errors()
	for _, path := range slices.Sorted(maps.Keys(errs)) {
		var broken *objectError
		if errors.As(errs[path], &broken) && broken.kind == kind && broken.key == at {
			return types.NewError(types.ErrInvalidNetworkConfig, "its manifest is broken: "+errs[path].Error(), "")
		}
		others = append(others, errs[path].Error())
	}
	if more := len(others) - maxOthers; more > 0 {
		others = append(others[:maxOthers], fmt.Sprintf("and %d more files", more))
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: %w in %s; also unreadable: %s", what, meta.ErrNotFound, s.dir, strings.Join(others, "; "))
	}
	return fmt.Errorf("%s: %w in %s", what, meta.ErrNotFound, s.dir)
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
		have := s.files[path]
		if have.is(info) {
			continue
		}
		f := file{info: info}
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
