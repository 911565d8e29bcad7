package main

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestPointsAreFoundInTheCode(t *testing.T) {
	file := func(body string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("package a\nfunc f() error {\n" + body + "\nreturn nil }\n")}
	}
	for name, test := range map[string]struct {
		module  fstest.MapFS
		want    string // of the points and their files
		refused string
	}{
		"sorted, with their files": {module: fstest.MapFS{"b/b.go": file(`_ = failpoint.Hit("b-begin")`), "a/a.go": file(`return failpoint.Hit("a-end")`)},
			want: "{\"a-end\", \"a/a.go\"},\n{\"b-begin\", \"b/b.go\"},"},
		"not those of tests": {module: fstest.MapFS{"a/a_test.go": file(`_ = failpoint.Hit("a-end")`), "test/x.go": file(`_ = failpoint.Hit("a-end")`)}},
		"a name twice":       {module: fstest.MapFS{"a/a.go": file(`_ = failpoint.Hit("a-end")`), "b/b.go": file(`_ = failpoint.Hit("a-end")`)}, refused: "b/b.go:3:5: point \"a-end\" is in a/a.go already"},
		"a name in a variable": {module: fstest.MapFS{"a/a.go": file(`_ = failpoint.Hit(name)`)},
			refused: "a/a.go:3:5: the name of a point is written where it is hit"},
		"a name of another form": {module: fstest.MapFS{"a/a.go": file(`_ = failpoint.Hit("A end")`)}, refused: `the name "A end" is not of small letters`},
	} {
		t.Run(name, func(t *testing.T) {
			points, err := find(test.module)
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("%v", err)
				}
				return
			}
			list := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(string(render(points)), header), "}\n"), "\t", "")
			if err != nil || strings.TrimSpace(list) != test.want {
				t.Errorf("%s, %v", list, err)
			}
		})
	}
}

func TestTheListIsWhatTheCodeSays(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	if err := run(true); err != nil {
		t.Error(err)
	}
	if points, err := find(os.DirFS(root)); err != nil || len(points) < 15 {
		t.Errorf("%d points, %v", len(points), err)
	}
}
