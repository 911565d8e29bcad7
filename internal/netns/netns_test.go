package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ours makes a network namespace that lives as long as the test, and returns its path.
func ours(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pod")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

// inPods are the process's threads that are in another network namespace than the host's. The first one is
// left out: it can't end, and the runtime parks it for good instead.
func inPods(t *testing.T, host string) (threads []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(all) == 0 {
		t.Fatalf("threads: %v, %v", all, err)
	}
	for _, f := range all {
		first := fmt.Sprintf("/proc/self/task/%d/ns/net", os.Getpid())
		if ns, err := os.Readlink(f); err == nil && ns != host && f != first { // it may have ended meanwhile
			threads = append(threads, f)
		}
	}
	return threads
}

// T19 of the threat model: a thread that can't come back from a pod's namespace serves no other goroutine.
func TestT19AThreadThatCannotComeBackEnds(t *testing.T) {
	host, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Open(ours(t))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := h.Do(func() error { // without the right to enter a namespace it can't return to the host's
				var none [2]unix.CapUserData
				return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 10_000 { // the threads that are left
		wg.Go(func() {
			if c, err := currentCookie(); err != nil || c == h.Cookie() {
				t.Errorf("a goroutine is in the pod's namespace: %v", err)
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // nothing tells of a thread's end
		left := inPods(t, host)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads in the pod's namespace: %v", left)
		}
	}
}

// A path may lead to another namespace than the one that was recorded.
func TestANamespaceIsKnownByItsCookie(t *testing.T) {
	path := ours(t)
	h, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if again, err := OpenIdentity(path, h.Cookie()); err != nil {
		t.Error(err)
	} else {
		again.Close()
	}
	if _, err := OpenIdentity(path, h.Cookie()+1); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("another namespace's cookie: %v", err)
	}
}

// T6 of the threat model: what a caller names is a pod's network namespace, or nothing is entered.
func TestT6OnlyNetworkNamespacesOfPodsAreEntered(t *testing.T) {
	dir := t.TempDir()
	plain, lead := filepath.Join(dir, "plain"), filepath.Join(dir, "link")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ours(t), lead); err != nil {
		t.Fatal(err)
	}
	host := filepath.Join(dir, "host")
	if err := os.WriteFile(host, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", host, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(host, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, path := range []string{host, "/proc/self/ns/net", "/proc/self/ns/mnt", plain, lead, dir, filepath.Join(dir, "none"), filepath.Join(plain, "below"), "", "/dev/null"} {
		if h, err := Open(path); err == nil {
			h.Close()
			t.Errorf("%q was opened", path)
		}
	}
}

// The kernel gives a namespace the inode of one that is gone.
func TestANamespaceThatHasAnEarlierOnesInodeIsAnother(t *testing.T) {
	inodes, cookies := map[uint64]bool{}, map[uint64]bool{}
	again := false
	for begin := time.Now(); !again; {
		if time.Since(begin) > time.Minute {
			t.Fatal("no namespace has had an earlier one's inode for a minute")
		}
		t.Run("namespace", func(t *testing.T) { // which is gone after it
			path := ours(t)
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				t.Fatal(err)
			}
			h, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if cookies[h.Cookie()] {
				t.Errorf("it is known as an earlier one")
			}
			again = inodes[st.Ino]
			inodes[st.Ino], cookies[h.Cookie()] = true, true
		})
	}
}
