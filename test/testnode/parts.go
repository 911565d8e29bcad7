package testnode

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// MainInParts is Main for a package with many tests, which mostly wait: all of them are dealt out to so many
// processes, each in namespaces of its own, that run side by side. Where some are chosen, or their output is to be
// followed (-v), there is one process.
func MainInParts(m *testing.M, parts int) {
	flag.Parse()
	if os.Getenv(inside) != "" || os.Geteuid() != 0 || !all() {
		Main(m)
		return
	}
	list, err := again("-test.list=.").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testnode: list the tests:", err)
		os.Exit(1)
	}
	dealt := make([][]string, parts)
	for i, name := range strings.Fields(string(list)) {
		dealt[i%parts] = append(dealt[i%parts], name)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // of what is written, and of failed
	failed := false
	for _, names := range dealt {
		wg.Go(func() {
			var out bytes.Buffer
			cmd := again(append(os.Args[1:], "-test.run=^("+strings.Join(names, "|")+")$")...)
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			mu.Lock()
			defer mu.Unlock()
			_, _ = os.Stdout.Write(out.Bytes())
			if failed = failed || err != nil; err != nil && cmd.ProcessState == nil {
				fmt.Fprintln(os.Stderr, "testnode:", err)
			}
		})
	}
	wg.Wait()
	if failed {
		os.Exit(1)
	}
}

// all reports whether the whole package is to be run, and nothing else.
func all() bool {
	for _, name := range []string{"run", "skip", "list", "bench", "fuzz", "v", "coverprofile"} {
		if v := flag.Lookup("test." + name).Value.String(); v != "" && v != "false" {
			return false
		}
	}
	return true
}
