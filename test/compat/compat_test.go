// Package compat starts this release on the records of others: testdata has those of every release.
package compat

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/internal/etcd"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// write makes a file of records instead of testing: see README.md.
var write = flag.String("write", "", "write the records of the release under test to this file of testdata")

func TestMain(m *testing.M) { testnode.Main(m) }

const prefix = "/patchbay/v1/"

// networks have addresses of every kind.
const networks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: one}
spec: {config: '{"cniVersion": "1.1.0", "name": "one", "type": "patchbay-ovs", "network": "data",
 "ipam": {"type": "patchbay-ipam", "network": "10.12.0.0/16", "subnetLen": 24}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: both}
spec: {config: '{"cniVersion": "1.1.0", "name": "both", "type": "patchbay-ovs", "network": "control", "vlan": 7,
 "ipam": {"type": "patchbay-ipam", "networks": ["10.14.0.0/20", "fd00:14::/48"], "subnetLen": 26}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: via}
spec: {config: '{"cniVersion": "1.0.0", "name": "via", "type": "bridge", "bridge": "kbr0",
 "ipam": {"type": "patchbay-ipam", "network": "10.13.0.0/16", "subnetLen": 24}}'}
`

// pods are those that run when the records are written, with their networks.
var pods = map[string]string{"web": "one,both", "db": "one", "bridged": "via"}

// A dump is the records of a node with pods. What differs from machine to machine is in them as {{...}}.
type dump struct {
	Pods        map[string]*sandbox.Sandbox `json:"pods"`
	Attachments []client.Attachment         `json:"attachments"`
	Records     map[string]string           `json:"records"`
}

// A node has its etcd in a process of its own.
type node struct {
	*testnode.Node
	etcd *testnode.Etcd
	kv   *clientv3.Client
}

func start(t *testing.T, before func(*node)) *node {
	t.Helper()
	dir := testnode.ShortDir(t)
	n := &node{etcd: testnode.StartEtcd(t, dir)}
	var err error
	if n.kv, err = etcd.Dial(etcd.Options{Endpoints: []string{n.etcd.Endpoint}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.kv.Close() })
	before(n)
	n.Node = testnode.New(t, testnode.Config{Manifests: map[string]string{"networks.yaml": networks}, Set: []string{"etcd.endpoints=[" + n.etcd.Endpoint + "]"}})
	return n
}

// records are all keys but those that are leased.
func (n *node) records(t *testing.T) map[string]string {
	t.Helper()
	resp, err := n.kv.Get(context.Background(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range resp.Kvs {
		if kv.Lease == 0 {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all
}

// TestTheRecordsOfEveryReleaseAreUnderstood starts this release on the records of another one. Its pods keep their
// interfaces and addresses, no other pod gets one of those, and when they have ended nothing of them is left.
func TestTheRecordsOfEveryReleaseAreUnderstood(t *testing.T) {
	if *write != "" {
		writeDump(t)
		return
	}
	for _, file := range files(t) {
		t.Run(filepath.Base(file), func(t *testing.T) { understand(t, read(t, file)) })
	}
}

func files(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/*.json")
	if err != nil || len(all) == 0 {
		t.Fatalf("no records: %v", err)
	}
	return all
}

func read(t *testing.T, file string) dump {
	t.Helper()
	var d dump
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// load puts the records into etcd, for pods whose namespaces it makes here.
func (n *node) load(t *testing.T, d dump) {
	t.Helper()
	boot, err := netns.BootID()
	if err != nil {
		t.Fatal(err)
	}
	replace := []string{"{{boot}}", boot, "{{bin}}", testnode.Bin()}
	for name, s := range d.Pods {
		path := testnode.Netns(t, filepath.Base(s.Netns))
		ns, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		replace = append(replace, "{{cookie:"+name+"}}", fmt.Sprint(ns.Cookie()))
		_ = ns.Close()
	}
	r := strings.NewReplacer(replace...)
	for key, value := range d.Records {
		if _, err := n.kv.Put(context.Background(), key, r.Replace(value)); err != nil {
			t.Fatal(err)
		}
	}
}

func understand(t *testing.T, d dump) {
	ctx := context.Background()
	n := start(t, func(n *node) { n.load(t, d) })
	have, err := n.Client.List(ctx, client.Filter{})
	if err != nil || fmt.Sprint(brief(have)) != fmt.Sprint(brief(d.Attachments)) {
		t.Errorf("attachments are\n%v\nand were\n%v: %v", brief(have), brief(d.Attachments), err)
	}
	for _, a := range d.Attachments {
		if !strings.HasPrefix(a.Port, "pb") {
			continue // another plugin's
		}
		for _, ip := range a.IPs {
			if addrs := testnode.Exec(t, d.Pods[a.Pod], "ip", "addr", "show", a.Interface); !strings.Contains(addrs, ip) {
				t.Errorf("%s %s lacks %s:\n%s", a.Pod, a.Interface, ip, addrs)
			}
		}
	}
	n.AssertClean(t)
	fresh := n.Run(t, "fresh", "one,both,via")
	now, err := n.Client.List(ctx, client.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	owner := map[string]string{}
	for _, a := range now {
		for _, ip := range a.IPs {
			if owner[ip] != "" {
				t.Errorf("%s has two owners: %s and %s", ip, owner[ip], a.Pod)
			}
			owner[ip] = a.Pod
		}
	}
	for _, s := range append(slices.Collect(maps.Values(d.Pods)), fresh) {
		if err := n.Runtime.Del(ctx, s); err != nil {
			t.Errorf("DEL of %s: %v", s.Pod, err)
		}
	}
	n.AssertEmpty(t)
	for key := range n.records(t) {
		if strings.Contains(key, "/ips/") || strings.Contains(key, "/sandboxes/") || strings.Contains(key, "/pods/") {
			t.Errorf("%s is left", key)
		}
	}
}

// brief is what of attachments must not change.
func brief(all []client.Attachment) (texts []string) {
	for _, a := range all {
		texts = append(texts, fmt.Sprintln(a.Pod, a.Interface, a.Network, a.Phase, a.MAC, a.IPs, a.Gateway, a.Routes, a.Source))
	}
	slices.Sort(texts)
	return texts
}

// The records of a release after this one have a version that this one does not know: nothing of them is changed,
// and no pod is given an address.
func TestTheRecordsOfANewerReleaseAreLeftAlone(t *testing.T) {
	for _, file := range files(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			d := read(t, file)
			d.Records[prefix+"version"] = "99"
			var before map[string]string
			n := &node{}
			dir := testnode.ShortDir(t)
			n.etcd = testnode.StartEtcd(t, dir)
			var err error
			if n.kv, err = etcd.Dial(etcd.Options{Endpoints: []string{n.etcd.Endpoint}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = n.kv.Close() })
			n.load(t, d)
			before = n.records(t)
			log := dir + "/log"
			p := testnode.Start(t, log, nil, filepath.Join(testnode.Bin(), "patchbayd"), "--set", "node=n1", "--set", "stateDir="+dir+"/state",
				"--set", "etcd.endpoints=["+n.etcd.Endpoint+"]", "--set", "listen.cni="+dir+"/cni.sock", "--set", "listen.api="+dir+"/api.sock",
				"--set", "ovs.db=unix:"+dir+"/none", "--set", "meta.cniConfDir="+dir+"/net.d")
			testnode.Eventually(t, "the daemon says why it does nothing", func() bool {
				text, err := os.ReadFile(log)
				return err == nil && strings.Contains(string(text), "its keys have layout 99, of a newer release")
			})
			add := exec.Command(filepath.Join(testnode.Bin(), "patchbay"))
			add.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=x", "CNI_IFNAME=eth0", "CNI_PATH="+testnode.Bin(), "CNI_NETNS="+testnode.Netns(t, "x"))
			add.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "patchbay", "type": "patchbay", "waitSeconds": 1, "socket": "` + dir + `/cni.sock"}`)
			if out, err := add.Output(); err == nil {
				t.Errorf("an ADD was done: %s", out)
			}
			p.Stop()
			if after := n.records(t); !maps.Equal(before, after) {
				t.Errorf("records were\n%v\nand are\n%v", before, after)
			}
		})
	}
}

var cookie = regexp.MustCompile(`"netnsCookie":\d+`)

// writeDump runs the pods under the release whose programs are tested, and writes down its records.
func writeDump(t *testing.T) {
	ctx := context.Background()
	n := start(t, func(*node) {})
	d := dump{Pods: map[string]*sandbox.Sandbox{}, Records: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		d.Pods[name] = n.Run(t, name, pods[name])
	}
	if _, err := n.Client.Attach(ctx, "default", "db", client.Request{Network: "both", Interface: "net7"}); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.Attachments, err = n.Client.List(ctx, client.Filter{}); err != nil {
		t.Fatal(err)
	}
	boot, err := netns.BootID()
	if err != nil {
		t.Fatal(err)
	}
	r := strings.NewReplacer(boot, "{{boot}}", testnode.Bin(), "{{bin}}")
	for key, value := range n.records(t) {
		for name, s := range d.Pods {
			if strings.HasSuffix(key, s.ContainerID) {
				value = cookie.ReplaceAllString(value, `"netnsCookie":{{cookie:`+name+`}}`)
			}
		}
		d.Records[key] = r.Replace(value)
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(d); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", *write), text.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
