// Package hostile plays the servers that patchbayd talks to, as they are not meant to be.
package hostile

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/patchbay-cni/patchbay/delegates/ovs/vswitch"
	"github.com/patchbay-cni/patchbay/test/bound"
)

// The steps of a connection to ovsdb-server: the answer to each of the first three, and a change.
const (
	databases = iota
	schema
	monitor
	update
	steps
)

// F5: the replies of ovsdb-server, through libovsdb. Whatever one is, the daemon lives, and goes on without
// Open vSwitch if need be. Maps of changes are left out that are not of pairs: libovsdb v0.8.1 panics over one
// (ovsdb/map.go), in a goroutine of its own.
func FuzzF5OVSDB(f *testing.F) {
	schemaText, err := os.ReadFile("/usr/share/openvswitch/vswitch.ovsschema")
	if err != nil {
		f.Fatal(err)
	}
	good := [steps]string{`["Open_vSwitch"]`, string(schemaText),
		`[false,"00000000-0000-0000-0000-000000000000",{"Open_vSwitch":{"36bef046-7da7-43a5-905a-c17899216fcb":{"initial":{"bridges":["set",[]],"next_cfg":1,"cur_cfg":1}}}}]`,
		`{"Port":{"26bef046-7da7-43a5-905a-c17899216fcb":{"insert":{"name":"pb1","interfaces":["set",[]],"external_ids":["map",[["patchbay-sandbox","c"]]]}}}}`}
	for step, reply := range good {
		if step != schema {
			f.Add(step, []byte(reply))
		}
	}
	for _, reply := range []string{"null", "{}", "[]", `[[]]`, `{"name":"Open_vSwitch","tables":{"Port":{"columns":{"name":{"type":{"key":{}}}}}}}`, `[true,null,null]`,
		`{"Port":{"x":{"modify":{"name":["map",[[1]]]}}}}`, `{"Port":{"26bef046-7da7-43a5-905a-c17899216fcb":{"delete":null}}}`,
		`{"Interface":{"46bef046-7da7-43a5-905a-c17899216fcb":{"initial":{"ofport":"text","error":["set",[1,2]]}}}}`} {
		for step := range steps {
			f.Add(step, []byte(reply))
		}
	}
	f.Fuzz(func(t *testing.T, step int, reply []byte) {
		if step < 0 || step >= steps || !json.Valid(reply) || !pairs(reply) { // what is not JSON ends the connection
			return
		}
		replies := good
		replies[step] = string(reply)
		bound.Check(t, func() { serveOnce(t, replies) })
	})
}

// pairs reports whether everything that is marked as a map is one of pairs.
func pairs(text []byte) bool {
	var v any
	return json.Unmarshal(text, &v) == nil && inPairs(v)
}

func inPairs(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, each := range v {
			if !inPairs(each) {
				return false
			}
		}
	case []any:
		for _, each := range v {
			if !inPairs(each) {
				return false
			}
		}
		return len(v) == 0 || v[0] != "map" || len(v) == 2 && arePairs(v[1])
	}
	return true
}

func arePairs(v any) bool {
	all, ok := v.([]any)
	return ok && !slices.ContainsFunc(all, func(each any) bool {
		pair, ok := each.([]any)
		return !ok || len(pair) != 2
	})
}

// serveOnce has a client connect to a server with those replies, and waits until it has seen them.
func serveOnce(t *testing.T, replies [steps]string) {
	dir, err := os.MkdirTemp("", "o") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ended := make(chan struct{})
	db := vswitch.New("unix:"+socket, slog.New(slog.DiscardHandler))
	go func() {
		defer close(ended)
		db.Run(ctx)
	}()
	conn, err := l.Accept()
	if err == nil {
		converse(conn, replies)
		_ = conn.Close()
	}
	cancel()
	<-ended
}

// converse answers until the client goes, or has seen the change.
func converse(conn net.Conn, replies [steps]string) {
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond)) // a client that is lost waits longer
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var m struct {
			Method string            `json:"method"`
			Params []json.RawMessage `json:"params"`
			ID     json.RawMessage   `json:"id"`
		}
		if in.Decode(&m) != nil || string(m.ID) == `"seen"` {
			return
		}
		result := "{}"
		switch m.Method {
		case "list_dbs":
			result = replies[databases]
		case "get_schema":
			result = replies[schema]
		case "echo":
			result = "[]"
		case "monitor", "monitor_cond", "monitor_cond_since":
			result = replies[monitor]
		}
		if out.Encode(map[string]any{"id": m.ID, "error": nil, "result": json.RawMessage(result)}) != nil {
			return
		}
		if m.Method != "monitor_cond_since" || len(m.Params) < 2 {
			continue
		}
		_ = out.Encode(map[string]any{"id": nil, "method": "update3", "params": []any{m.Params[1], "00000000-0000-0000-0000-000000000001", json.RawMessage(replies[update])}})
		_ = out.Encode(map[string]any{"id": nil, "method": "update2", "params": []any{m.Params[1], json.RawMessage(replies[update])}})
		_ = out.Encode(map[string]any{"id": "seen", "method": "echo", "params": []any{}})
	}
}
