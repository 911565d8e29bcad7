package cniwire

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCallSpeaksHTTPAsARealServerDoes(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	for name, handler := range map[string]http.HandlerFunc{
		"short":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"ok"`) },
		"chunked": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"ok`+long+`"`) },
		"empty":   func(http.ResponseWriter, *http.Request) {},
		"error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = io.WriteString(w, `"bad"`) },
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			got = r.Method + " " + r.URL.Path + " " + string(b)
			handler(w, r)
		})}
		go func() { _ = srv.Serve(l) }()
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		ok, answer, err := Call(conn, "patchbay", &Request{Command: "DEL", ContainerID: "c"}, time.Now().Add(5*time.Second))
		_ = conn.Close()
		_ = srv.Close()
		want := map[string]string{"short": `"ok"`, "chunked": `"ok` + long + `"`, "empty": "", "error": `"bad"`}[name]
		if err != nil || ok != (name != "error") || string(answer) != want {
			t.Errorf("%s: %v, %d bytes, %v", name, ok, len(answer), err)
		}
		if !strings.HasPrefix(got, `POST /cni/v1/patchbay {"command":"DEL","containerID":"c"`) {
			t.Error(got)
		}
	}
}

// F4: what the daemon answers, to the shim.
func FuzzF4Answer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.0 500 no\r\n\r\nrest", "HTTP/1.1 2", "", "HTTP/1.1 200\r\nContent-Length: -1\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		_, _, _ = readAnswer(bufio.NewReader(strings.NewReader(s))) // must not panic, nor take more than it may
	})
}

// TestTheShimLinksLittle holds the shim to the standard library and the CNI types.
func TestTheShimLinksLittle(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "../../cmd/patchbay")
	cmd.Env = os.Environ()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		std := !strings.Contains(strings.Split(dep, "/")[0], ".")
		ours := strings.HasPrefix(dep, "github.com/patchbay-cni/patchbay/")
		if !std && !ours && dep != "github.com/containernetworking/cni/pkg/types" {
			t.Errorf("the shim links %s", dep)
		}
		if dep == "net/http" {
			t.Error("the shim links net/http, which more than doubles its start-up time")
		}
	}
}
