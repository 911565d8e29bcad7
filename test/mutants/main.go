// Command mutants shows that the tests catch faults: it plants each of a list of faults, one at a time, and
// runs the test that is named with it, which must fail. Nothing in the tree is changed: the compiler is given
// the changed file as an overlay.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A mutant is a fault: in the code of a package, which has old once, old becomes new.
type mutant struct {
	name     string
	pkg      string
	old, new string
	test     test
}

// A test is a pattern of names in a package, and arguments for its program. One with bins runs the project's
// programs, which are built with the fault.
type test struct {
	pkg, run string
	args     []string
	bins     bool
}

func main() {
	check := flag.Bool("check", false, "only see that each fault can be planted, and that its test is there")
	only := flag.String("only", "", "the name of the one mutant to try")
	flag.Parse()
	if err := run(*check, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(check bool, only string) error {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := checkAll(); check || err != nil {
		return err
	}
	var errs []error
	sound := map[string]error{} // tests, by what they are, and whether they pass without a fault
	for _, m := range mutants {
		if only != "" && m.name != only {
			continue
		}
		begin := time.Now()
		key := fmt.Sprint(m.test)
		if _, known := sound[key]; !known {
			sound[key] = m.test.passes(dir, "")
		}
		err := sound[key]
		if err == nil {
			err = m.caught(dir)
		}
		word := "caught"
		if err != nil {
			word = "NOT CAUGHT"
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
		fmt.Printf("%-10s %5.1fs  %-42s %s %s\n", word, time.Since(begin).Seconds(), m.name, m.test.pkg, m.test.run)
	}
	return errors.Join(errs...)
}

// checkAll returns an error for each mutant that can't be planted any more, or whose test is not there.
func checkAll() error {
	var errs []error
	names := map[string]bool{}
	for _, m := range mutants {
		if _, _, err := m.plant(); err != nil {
			errs = append(errs, err)
		}
		if !m.test.exists() {
			errs = append(errs, fmt.Errorf("mutant %s: there is no test %s in %s", m.name, m.test.run, m.test.pkg))
		}
		if names[m.name] {
			errs = append(errs, fmt.Errorf("mutant %s is there twice", m.name))
		}
		names[m.name] = true
	}
	return errors.Join(errs...)
}

func (t test) exists() bool {
	name, _, _ := strings.Cut(t.run, "/")
	found := regexp.MustCompile(`(?m)^func ` + name + `\(`)
	files, _ := filepath.Glob(filepath.Join(t.pkg, "*_test.go"))
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		return err == nil && found.Match(b)
	})
}

// plant returns the file that gets the fault, and its text with the fault in it.
func (m mutant) plant() (file string, text []byte, err error) {
	files, err := filepath.Glob(filepath.Join(m.pkg, "*.go"))
	if err != nil {
		return "", nil, err
	}
	count := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", nil, err
		}
		if n := bytes.Count(b, []byte(m.old)); n > 0 && !strings.HasSuffix(f, "_test.go") {
			file, text, count = f, bytes.Replace(b, []byte(m.old), []byte(m.new), 1), count+n
		}
	}
	if count != 1 {
		return "", nil, fmt.Errorf("mutant %q is stale: %s has %q %d times, not once", m.name, m.pkg, m.old, count)
	}
	return file, text, nil
}

// caught returns an error unless the test fails with the fault.
func (m mutant) caught(dir string) error {
	file, text, err := m.plant()
	if err != nil {
		return err
	}
	changed := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(changed, text, 0o600); err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	b, _ := json.Marshal(map[string]map[string]string{"Replace": {file: changed}}) // texts always marshal
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		return err
	}
	err = m.test.passes(dir, overlay)
	if failed := (testFailed{}); errors.As(err, &failed) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s %s passes with the fault %q in %s", m.test.pkg, m.test.run, m.new, m.pkg)
}

// testFailed says that a test ran, and what it said.
type testFailed struct{ output string }

func (e testFailed) Error() string { return "the test fails:\n" + e.output }

// passes runs the test, with an overlay if there is one. The error is a testFailed if the test ran and failed.
func (t test) passes(dir, overlay string) error {
	flags := strings.TrimSpace(os.Getenv("GOFLAGS") + " " + map[bool]string{true: "-overlay=" + overlay}[overlay != ""])
	env := append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+flags)
	if t.bins {
		bin := filepath.Join(dir, "bin")
		env = append(env, "PATCHBAY_TEST_BIN="+bin)
		for _, args := range [][]string{{"build", "-tags", "failpoints", "-o", bin + "/", "./cmd/patchbayd", "./cmd/patchctl", "./cmd/patchbay"}} {
			if out, err := command(env, "go", args...); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
		}
		for _, name := range []string{"patchbay-ovs", "patchbay-ipam"} {
			if err := os.Symlink("patchbay", filepath.Join(bin, name)); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	program := filepath.Join(dir, "test")
	if out, err := command(env, "go", "test", "-c", "-o", program, "./"+t.pkg); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	run := exec.Command(program, append([]string{"-test.count=1", "-test.failfast", "-test.timeout=5m", "-test.run=^" + t.run + "$"}, t.args...)...)
	run.Dir, run.Env = t.pkg, env
	if out, err := run.CombinedOutput(); err != nil {
		return testFailed{string(out)}
	} else if bytes.Contains(out, []byte("no tests to run")) {
		return errors.New("no test ran")
	}
	return nil
}

func command(env []string, name string, args ...string) ([]byte, error) {
	c := exec.Command(name, args...)
	c.Env = env
	return c.CombinedOutput()
}
