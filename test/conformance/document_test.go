// Package conformance holds docs/conformance.md to the tests that it names.
package conformance

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

var (
	row      = regexp.MustCompile(`(?m)^\| (.*) \| (\S+_test\.go.*) \|$`)
	lines    = regexp.MustCompile(`\b([NC])(\d\d)(?:-[NC](\d\d))?\b`)
	testName = regexp.MustCompile(`"((?:[NC]\d\d )+)`)
)

// In each row the document names the lines that the tests of that directory bear, and no other; all rows and
// the lines that have a reason instead of a test are all lines there are.
func TestTheDocumentNamesTheTestsThereAre(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]map[string]bool{} // directory -> lines
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		files := strings.Split(m[2], ", ")
		dir := filepath.Dir(files[0])
		for _, f := range files {
			if _, err := os.Stat(filepath.Join(root, dir, filepath.Base(f))); err != nil {
				t.Error(err)
			}
		}
		if documented[dir] == nil {
			documented[dir] = map[string]bool{}
		}
		maps.Copy(documented[dir], expand(t, m[1]))
	}
	for dir, want := range documented {
		if have := tested(t, filepath.Join(root, dir)); !maps.Equal(have, want) {
			t.Errorf("%s: the document has %v, the tests have %v", dir, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(have)))
		}
	}
	all := expand(t, string(text))
	for i := 1; i <= 54; i++ {
		for _, line := range []string{fmt.Sprintf("N%02d", i), fmt.Sprintf("C%02d", i)} {
			if !all[line] {
				t.Errorf("the document says nothing of %s", line)
			}
		}
	}
}

// expand returns the lines a text names, each of a range such as N34-N41.
func expand(t *testing.T, text string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, m := range lines.FindAllStringSubmatch(text, -1) {
		var first, last int
		if _, err := fmt.Sscan(strings.TrimLeft(m[2], "0"), &first); err != nil {
			t.Fatal(err)
		}
		if last = first; m[3] != "" {
			if _, err := fmt.Sscan(strings.TrimLeft(m[3], "0"), &last); err != nil {
				t.Fatal(err)
			}
		}
		for i := first; i <= last; i++ {
			all[fmt.Sprintf("%s%02d", m[1], i)] = true
		}
	}
	return all
}

// tested returns the lines that names of a directory's tests begin with.
func tested(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(dir + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(text), -1) {
			maps.Copy(all, expand(t, m[1]))
		}
	}
	return all
}
