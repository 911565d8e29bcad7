// Package promises holds docs/reliability.md to the tests that it names.
package promises

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	row     = regexp.MustCompile(`(?m)^\| ([TRF]?\d+) \| ([^|]+) \| ([^|]+) \|$`)
	named   = regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	defined = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// Each line of the reliability plan is in the table once, with tests that are there, or a reason.
func TestEveryLineHasATestOrAReason(t *testing.T) {
	page, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testsBelow(t, "../..")
	have := map[string]int{}
	for _, r := range row.FindAllStringSubmatch(string(page), -1) {
		line, text := r[1], r[3]
		have[line]++
		names := named.FindAllStringSubmatch(text, -1)
		if len(names) == 0 && !strings.HasPrefix(text, "none") {
			t.Errorf("line %s names no test and gives no reason: %s", line, text)
		}
	}
	for _, name := range named.FindAllStringSubmatch(string(page), -1) {
		if !tests[name[1]] {
			t.Errorf("there is no test %s", name[1])
		}
	}
	for kind, last := range map[string]int{"": 54, "T": 20, "R": 19, "F": 10} {
		for i := 1; i <= last; i++ {
			if line := fmt.Sprint(kind, i); have[line] != 1 {
				t.Errorf("line %s is in the table %d times", line, have[line])
			}
		}
	}
}

// testsBelow are the names of all tests below a directory.
func testsBelow(t *testing.T, root string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && strings.HasPrefix(e.Name(), ".") && path != root:
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		for _, f := range defined.FindAllStringSubmatch(string(b), -1) {
			names[f[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
