// Package manifest is the catalog of pods and networks of a node without Kubernetes: a watched
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
	"syscall"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/meta"
)

// A Catalog reads Pod and NetworkAttachmentDefinition manifests from a directory. A file that can't
// be read is reported and leaves what its last good version said; the other files are not
// disturbed.
type Catalog struct {
	dir string
	log *slog.Logger

	mu       sync.Mutex
	files    map[string]file  // by path
	inForce  objects          // of all files; of an object that two files have, the first file's
	twins    map[string]error // by path: which of its objects an earlier file has, too
	watchErr error            // why nothing tells of changes
}

type file struct {
	info    os.FileInfo
	objects objects
	err     error
}

// is reports whether the file is still the one that was read. Tools that keep the time of what they
// copy can't keep the time of the change.
func (f *file) is(info os.FileInfo) bool {
	changed := func(info os.FileInfo) syscall.Timespec { return info.Sys().(*syscall.Stat_t).Ctim }
	return f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() &&
		changed(f.info) == changed(info)
}

// New returns a catalog for the directory, which need not exist yet; "" has nothing in it.
func New(dir string, log *slog.Logger) *Catalog {
	s := &Catalog{dir: dir, log: log, files: map[string]file{}}
	s.scan(nil)
	return s
}

// Errors returns what is wrong with which file, by path, and with the directory's watch.
func (s *Catalog) Errors() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := map[string]error{}
	for path, f := range s.files {
		if err := errors.Join(f.err, s.twins[path]); err != nil {
			errs[path] = err
		}
	}
	if s.watchErr != nil {
		errs[s.dir] = s.watchErr
	}
	return errs
}

// Pod implements meta.Catalog.
func (s *Catalog) Pod(_ context.Context, namespace, name, uid string) (*meta.Pod, error) {
	p, err := find(s, "Pod", key{namespace, name}, func(o objects) map[key]*meta.Pod { return o.pods })
	if err == nil && !p.Is(uid) {
		return nil, fmt.Errorf("pod %s/%s has UID %s, the sandbox is for %s: %w", namespace, name, p.UID, uid, meta.ErrReplaced)
	}
	return p, err
}

// Network implements meta.Catalog.
func (s *Catalog) Network(_ context.Context, namespace, name string) (*meta.Network, error) {
	return find(s, "NetworkAttachmentDefinition", key{namespace, name}, func(o objects) map[key]*meta.Network { return o.networks })
}

// Networks returns all networks, sorted by namespace and name.
func (s *Catalog) Networks() []meta.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []meta.Network
	for _, n := range s.inForce.networks {
		all = append(all, *n)
	}
	slices.SortFunc(all, meta.ByName)
	return all
}

// find looks in what is known, and once more in the directory itself: the watch may be behind.
func find[T any](s *Catalog, kind string, at key, of func(objects) map[key]*T) (*T, error) {
	look := func() *T {
		s.mu.Lock()
		defer s.mu.Unlock()
		return of(s.inForce)[at]
	}
	o := look()
	if o == nil {
		s.scan(nil)
		o = look()
	}
	if o != nil {
		return o, nil
	}
	what := strings.Replace(kind, "Pod", "pod", 1) + " " + at.namespace + "/" + at.name
	if s.dir == "" {
		return nil, fmt.Errorf("%s: %w: standalone.manifests names no directory", what, meta.ErrNotFound)
	}
	return nil, s.missing(kind, at, what)
}

// maxOthers is how many unreadable files an error tells.
const maxOthers = 3

// missing says why an object is not there: its manifest is broken, or no file has it. It names the files
// that can't be read, as one of them may have it.
func (s *Catalog) missing(kind string, at key, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var others []string
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		err := s.files[path].err
		var broken *objectError
		switch {
		case err == nil:
		case errors.As(err, &broken) && broken.kind == kind && broken.key == at:
			return types.NewError(types.ErrInvalidNetworkConfig, "its manifest is broken: "+err.Error(), "")
		default:
			others = append(others, err.Error())
		}
	}
	if more := len(others) - maxOthers; more > 0 {
		others = append(others[:maxOthers], fmt.Sprintf("and %d more files", more))
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: %w in %s; also unreadable: %s", what, meta.ErrNotFound, s.dir, strings.Join(others, "; "))
	}
	return fmt.Errorf("%s: %w in %s", what, meta.ErrNotFound, s.dir)
}

// isManifest reports whether a file is read, by its name.
func isManifest(name string) bool {
	ext := filepath.Ext(name)
	return ext == ".yaml" || ext == ".yml" || ext == ".json"
}

// scan reads the files that are new or have changed, and those that suspect wants read in any case; a
// nil suspect wants none.
func (s *Catalog) scan(suspect func(name string) bool) {
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
		if !isManifest(path) {
			continue
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		seen[path] = true
		if have := s.files[path]; !have.is(info) || suspect != nil && suspect(e.Name()) {
			s.read(path, info)
		}
	}
	maps.DeleteFunc(s.files, func(path string, _ file) bool { return !seen[path] })
	s.join()
}

func (s *Catalog) read(path string, info os.FileInfo) {
	have := s.files[path]
	f := file{info: info}
	if f.objects, f.err = parseFile(path); f.err != nil {
		f.objects = have.objects
		s.tell("manifest can't be read; its last good version stays in force", have.err, f.err)
	}
	s.files[path] = f
}

// join works out what is in force, and which objects two files have.
func (s *Catalog) join() {
	s.inForce = newObjects()
	first, twins := map[string]string{}, map[string]error{}
	paths := slices.Sorted(maps.Keys(s.files))
	for _, path := range paths {
		lines := s.files[path].objects.lines
		for _, at := range slices.Sorted(maps.Keys(lines)) {
			if before := first[at]; before != "" {
				err := fmt.Errorf("%s: line %d: %s is in %s (line %d), too, which counts: remove one of them",
					path, lines[at], at, before, s.files[before].objects.lines[at])
				twins[path] = errors.Join(twins[path], err)
				continue
			}
			first[at] = path
		}
	}
	for _, path := range slices.Backward(paths) { // the first file's are the last to be copied
		maps.Copy(s.inForce.pods, s.files[path].objects.pods)
		maps.Copy(s.inForce.networks, s.files[path].objects.networks)
	}
	for path, err := range twins {
		s.tell("manifest is not in force as a whole", s.twins[path], err)
	}
	s.twins = twins
}

// tell logs an error, unless it is the one that was told before.
func (s *Catalog) tell(what string, before, err error) {
	if before == nil || before.Error() != err.Error() {
		s.log.Error(what, "error", err)
	}
}
