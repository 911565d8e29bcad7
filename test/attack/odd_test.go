package attack

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Paths and bodies of all kinds have an answer, and none is a fault of the daemon.
func TestOddRequestsHaveAnAnswer(t *testing.T) {
	n := newNode(t)
	n.Run(t, "a", "data")
	deep := strings.Repeat(`{"a":`, 40000) + "1" + strings.Repeat("}", 40000)
	bodies := []string{"", "null", "[]", "0", `""`, "{}", `{"network": null}`, `{"network": "vlan", "network": "data"}`, `{"NETWORK": "vlan"}`, `{"network": "vlan\u0000"}`,
		`{"network": "a/b/c"}`, `{"network": "/"}`, `{"network": "vlan", "interface": "../x"}`, `{"network": "vlan", "interface": "lo"}`, `{"network": "vlan", "interface": "eth0"}`, `{"network": "vlan", "interface": "a b"}`,
		`{"network": "vlan", "mac": "ff:ff:ff:ff:ff:ff"}`, `{"network": "vlan", "mac": "01:00:5e:00:00:01"}`, `{"network": "vlan", "ips": [""]}`, `{"network": "vlan", "ips": ["0.0.0.0"]}`,
		`{"network": "vlan", "bandwidth": {"ingressRate": 1e300}}`, `{"network": "vlan", "bandwidth": {"ingressRate": -1}}`, `{"network": "vlan", "bandwidth": {}}`, `{"network": "vlan", "portMappings": [{"hostPort": 1, "containerPort": 99999999999999}]}`,
		`{"config": null}`, `{"config": 1}`, `{"config": "x"}`, `{"config": []}`, `{"config": {}}`, `{"config": {"type": "../x"}}`, `{"config": {"type": "good", "name": "x", "cniVersion": "9.9.9"}}`,
		`{"config": {"cniVersion": "1.0.0", "name": "x", "plugins": [null]}}`, `{"config": {"cniVersion": "1.0.0", "name": "x", "plugins": []}}`, `{"config": {"cniVersion": "1.0.0", "name": "x", "type": "patchbay"}}`,
		`{"config": ` + deep[:200000] + `}`, `{"network": "vlan", "cniArgs": {"": ` + `"` + strings.Repeat("\\u0000", 20000) + `"}}`, `{"network": "data", "defaultRoute": ["192.0.2.1"]}`, `{"network": "data", "defaultRoute": ["10.12.0.1", "fe80::1%x"]}`,
		"\xff\xfe", strings.Repeat("[", 100000), `{"network": "vlan", "uid": "other"}`, `{"network": "vlan", "dryRun": "yes"}`}
	paths := []string{"/v1/namespaces/default/pods/a/attachments", "/v1/namespaces/default/pods/a/attachments/x0"}
	httpc := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.API)
		}}}
	ask := func(method, path, body, kind string) {
		r, err := http.NewRequest(method, "http://patchbay"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		answer, err := httpc.Do(r)
		if err != nil {
			t.Errorf("%s %s %.60s: %v", method, path, body, err)
			return
		}
		defer answer.Body.Close()
		b, _ := io.ReadAll(answer.Body)
		if answer.StatusCode >= 500 {
			t.Errorf("%s %s %.60s: %d %.200s", method, path, body, answer.StatusCode, b)
		}
	}
	for _, b := range bodies {
		ask("POST", paths[0], b, "application/json")
		ask("PUT", paths[1], b, "application/json")
	}
	ask("POST", paths[0], `{"network": "vlan"}`, "text/plain")
	ask("POST", paths[0], `{"network": "vlan"}`, "application/cbor")
	ask("POST", paths[0], `{"network": "vlan"}`, "")
	for _, p := range []string{"/v1/namespaces/%2e%2e/pods/%2e%2e/attachments", "/v1//attachments", "/v1/../v1/attachments", "/v1/namespaces/default/pods/a%2Fb/attachments", "/v1/attachments?watch=maybe",
		"/v1/attachments?namespace=%00", "/v1/namespaces/default/pods/a/attachments/%ff", "/v1/namespaces/default/pods//attachments", "/", "/v1", "/openapi.json", "/openapi.yaml", "/openapi-3.0.json", "/schemas/x.json", "/docs", "/debug/pprof/"} {
		for _, m := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "PATCH", "DELETE"} {
			ask(m, p, "", "")
		}
	}
	for _, p := range []string{"/v1/pools/%2e%2e", "/v1/pools/%2F", "/v1/pools/..%2F..", "/v1/pools/x/claims/%2e%2e", "/v1/pools/%2e%2e/claims/10.0.0.1", "/v1/leftovers/port/%2e%2e", "/v1/leftovers/address/%2e%2e%2F10.0.0.1", "/v1/leftovers/attachment/%2F", "/v1/leftovers/attachment/x"} {
		ask("DELETE", p, "", "")
	}
	if strings.Contains(n.LogTail(), "panic") {
		t.Error("a panic")
	}
}
