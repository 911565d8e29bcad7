package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// snapshot is everything that a node has, one thing a line, sorted. Two of a node that is empty are the same.
func (c *crash) snapshot(t *testing.T) []string {
	t.Helper()
	var all []string
	lines := func(what, text string) {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, what+" "+line)
			}
		}
	}
	run := func(what, name string, args ...string) {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		lines(what, string(out))
	}
	run("link", "sh", "-c", "ip -o link show | awk '{print $1, $2}'")
	run("address", "sh", "-c", "ip -o address show | grep -v link | awk '{print $2, $4}'")
	run("rule", "nft", "list", "ruleset")
	run("etcd", "sh", "-c", "etcdctl --endpoints "+c.etcd.Endpoint+" get --prefix /patchbay/ --keys-only | grep -Ev '/(live|subnets|nodes)/|/spec$'")
	for _, table := range []string{"Bridge", "Port", "Interface", "QoS", "Mirror", "Queue"} {
		column := map[bool]string{true: "other_config", false: "name"}[table == "QoS" || table == "Queue"]
		lines(table, c.OVS.Vsctl(t, "--bare", "--no-heading", "--columns="+column, "list", table))
	}
	for _, dir := range []string{c.Dir + "/state", "/run/netns", "/run/host-local"} {
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				all = append(all, "file "+path)
			}
			return nil // what is not there is not listed
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(all)
	return all
}

// volatile are the things that may differ between two empty nodes.
var volatile = regexp.MustCompile(`^(link \d+: |file /run/host-local/.*(last_reserved|lock)|file .*/state/(mirror/|resting|del-queue/\.lock|etcd/))`)

// difference is what two snapshots don't have in common.
func difference(before, after []string) []string {
	number := regexp.MustCompile(`^link \d+: `)
	clean := func(all []string) []string {
		var kept []string
		for _, line := range all {
			line = number.ReplaceAllString(line, "link ")
			if !volatile.MatchString(line) {
				kept = append(kept, line)
			}
		}
		return kept
	}
	before, after = clean(before), clean(after)
	var diff []string
	for _, line := range before {
		if !slices.Contains(after, line) {
			diff = append(diff, "- "+line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			diff = append(diff, "+ "+line)
		}
	}
	return diff
}

// foreign are the daemon's threads that are in another network namespace than it is (I9).
func (c *crash) foreign() []string {
	var found []string
	pid := c.Daemon.Pid()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	for _, f := range threads {
		if ns, readErr := os.Readlink(f); err == nil && readErr == nil && ns != own {
			found = append(found, f)
		}
	}
	return found
}
