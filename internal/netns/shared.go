package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Dirs are where runtimes mount the namespaces of pods.
var Dirs = []string{"/run/netns", "/var/run/netns"}

// CheckShared says why what a runtime mounts in a directory may never be seen here: it is mounted in this process's mount
// namespace apart, and mounts of the host do not come through. A directory that is none, or not mounted itself, is the
// host's own, or there is nothing to say of it.
func CheckShared(dir string) error {
	at, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	apart := false
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): the fifth field is the mount point, those from the seventh to "-" are of its propagation.
		fields := strings.Fields(line)
		end := slices.Index(fields, "-")
		if end < 6 || fields[4] != at {
			continue
		}
		apart = !slices.ContainsFunc(fields[6:end], func(f string) bool { // of mounts on one place the last is seen
			return strings.HasPrefix(f, "shared:") || strings.HasPrefix(f, "master:")
		})
	}
	if apart {
		return fmt.Errorf("%s is mounted without propagation: the namespaces of pods that start from now on will not be seen, and their ADDs fail; mount it with mountPropagation: HostToContainer (rslave)", at)
	}
	return nil
}
