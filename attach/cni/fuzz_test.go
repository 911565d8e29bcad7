package cni

import (
	"encoding/json"
	"testing"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/test/bound"
)

// F4: what the shim sends, with the environment, CNI_ARGS and configuration that the runtime gave it. What is
// accepted is fit for a path and for the kernel; what is not has an error of CNI's.
func FuzzF4Call(f *testing.F) {
	for _, s := range [][4]string{
		{"ADD", "c1", "eth0", `{"cniVersion":"1.1.0","name":"a","type":"patchbay"}`},
		{"DEL", "c1", "eth0", `{"cniVersion":"9.9.9","prevResult":{"ips":[]},"runtimeConfig":{"mac":"x"}}`},
		{"GC", "", "", `{"cniVersion":"1.1.0","cni.dev/valid-attachments":null}`},
		{"CHECK", "../c", "a/b", `{"cniVersion":1}`}, {"STATUS", "", "", "null"}, {"", "", "", ""},
	} {
		f.Add(s[0], s[1], "/run/netns/a", s[2], "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:01", "/opt/cni/bin:", []byte(s[3]))
	}
	f.Fuzz(func(t *testing.T, command, id, netns, ifName, args, path string, config []byte) {
		req := cniwire.Request{Command: command, ContainerID: id, Netns: netns, IfName: ifName, Args: args, Path: path}
		if json.Valid(config) {
			req.Config = config
		}
		frame, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		bound.Check(t, func() {
			var read cniwire.Request
			if err := json.Unmarshal(frame, &read); err != nil {
				t.Fatalf("%q: %v", frame, err)
			}
			c, err := newCall(&read)
			if err != nil {
				if e := toCNI(err); e.Code == 0 || e.Msg == "" {
					t.Errorf("%q: %+v", frame, e)
				}
				return
			}
			if cniwire.CheckIfName(ifName) != "" && ifName != "" {
				t.Errorf("interface %q was accepted", ifName)
			}
			if c.Command == "GC" && !c.conf.ValidAttachments.given && !c.conf.Attachments.given {
				t.Errorf("a GC without a list was accepted: %q", config)
			}
			s := c.sandbox()
			_ = delegates.CNIArgs(delegates.Sandbox{Args: s.CNIArgs}, &delegates.Attachment{Interface: ifName})
		})
	})
}

// The frame itself, whatever it is.
func FuzzF4Frame(f *testing.F) {
	for _, s := range []string{`{"command":"ADD","config":{}}`, "{", "", "null", `{"config":"text"}`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		bound.Check(t, func() {
			var read cniwire.Request
			if json.Unmarshal(frame, &read) != nil {
				return
			}
			_ = versionOf(read.Config)
			if _, err := newCall(&read); err != nil && toCNI(err).Code == 0 {
				t.Errorf("%q: %v", frame, err)
			}
		})
	})
}
