package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Place identifies the directory that a namespace's path is in, as long as the node is not booted again: device
// and inode, wherever it is mounted. For a process's namespace it is /proc.
func Place(path string) (string, error) {
	dir := placeOf(path)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("directory of network namespaces %s: %w", dir, err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

func placeOf(path string) string {
	if strings.HasPrefix(filepath.Clean(path), "/proc/") {
		return "/proc"
	}
	return filepath.Dir(path)
}

// Visible reports whether the error of Open, that there is no namespace at the path, can be relied on: the
// directory is there, is the one that the namespace was in (if place is not empty), and, where the path is still
// there without a namespace, others are mounted in it. Else the directory may be hidden, or all that was mounted
// in it: namespaces live on without a path.
func Visible(path, place string, err error) bool {
	now, placeErr := Place(path)
	if placeErr != nil || place != "" && place != now {
		return false
	}
	return !errors.Is(err, ErrUnmounted) || hasNamespaces(placeOf(path))
}

// hasNamespaces reports whether namespaces are mounted in a directory.
func hasNamespaces(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		var fs unix.Statfs_t
		if unix.Statfs(filepath.Join(dir, e.Name()), &fs) == nil && fs.Type == nsfsMagic {
			return true
		}
	}
	return false
}
