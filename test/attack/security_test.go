package attack

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// The tests of this file bear the numbers of the threats and of the lines of known failures that
// docs/reliability.md lists.

// Whatever somebody writes into a pod's network-status, nothing is attached, detached or believed.
func TestT14NetworkStatusIsOutputOnly(t *testing.T) {
	a := testnode.NewAPIServer(t)
	a.NAD("good", good)
	n := clusterNode(t, a)
	if _, err := n.runPod(a, "a", "good"); err != nil {
		t.Fatal(err)
	}
	testnode.Eventually(t, "the status is written", func() bool { return strings.Contains(a.Status("a"), "net1") })
	before := n.calls()
	for _, forged := range []string{`[]`, `[{"name": "default/good", "interface": "net1"}, {"name": "default/good", "interface": "net9"}]`, `no JSON`} {
		a.Merge(testnode.PodsAt, "a", testnode.Object{"metadata": testnode.Object{"annotations": testnode.Object{meta.StatusAnnotation: forged}}})
		if n.calls() != before {
			t.Fatalf("after %s: %s", forged, n.calls())
		}
	}
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "good", Interface: "hot1"}); err != nil {
		t.Fatal(err)
	}
	testnode.Eventually(t, "the status is true again", func() bool { return strings.Contains(a.Status("a"), "net1") && strings.Contains(a.Status("a"), "hot1") })
	l, err := n.Client.List(context.Background(), client.Filter{})
	if err != nil || len(l) != 2 || strings.Contains(n.calls()+a.Status("a"), "net9") || strings.Contains(n.calls(), "DEL") {
		t.Errorf("attachments %+v, %v, calls %s, status %s", l, err, n.calls(), a.Status("a"))
	}
}

// A caller's CNI_PATH chooses among the directories of meta.cniBinDirs, and adds none.
func TestT18PluginsAreExecutedFromTheConfiguredDirectoriesOnly(t *testing.T) {
	n := newNode(t)
	evil := testnode.ShortDir(t)
	done := evil + "/done"
	for _, name := range []string{"evil", "good"} {
		if err := os.WriteFile(evil+"/"+name, []byte("#!/bin/sh\necho $0 >>"+done+"\necho '{\"cniVersion\": \"1.0.0\"}'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.nad("evil", `{"cniVersion": "1.0.0", "name": "evil", "type": "evil"}`)
	n.nad("linked", `{"cniVersion": "1.0.0", "name": "linked", "type": "..`+evil+`/evil"}`)
	n.Runtime.BinDirs = append([]string{evil}, n.Runtime.BinDirs...) // its CNI_PATH
	for _, network := range []string{"evil", "linked"} {
		if _, err := n.TryRun("p", network); err == nil {
			t.Errorf("a plugin of %s was executed", network)
		}
	}
	n.Run(t, "a", "good")
	if log, err := os.ReadFile(done); err == nil {
		t.Errorf("executed: %s", log)
	}
	if !strings.Contains(n.calls(), "ADD good") {
		t.Errorf("good was not: %s", n.calls())
	}
}

// CVE-2020-15257: a pod on the host's network reaches abstract sockets.
func TestLine45ThereIsNoAbstractSocket(t *testing.T) {
	n := testnode.Standard(t) // with an embedded etcd
	n.Run(t, "a", "data")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", n.Daemon.Pid()))
	if err != nil || !strings.Contains(string(b), n.CNI) {
		t.Fatalf("%v: %s", err, b)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "@") {
			t.Error(line)
		}
	}
}

// CVE-2022-29178: the sockets are root's, whatever becomes of their mode.
func TestLine46TheSocketsAreForRootOnly(t *testing.T) {
	n := testnode.Standard(t)
	n.Daemon.Stop()
	dir := testnode.ShortDir(t) + "/made"
	sockets := []string{dir + "/cni.sock", dir + "/api.sock", n.Dir + "/state/etcd.sock"}
	n.Set = append(n.Set, "listen.cni="+sockets[0], "listen.api="+sockets[1])
	var err error
	if n.Client, err = client.New("unix://"+sockets[1], ""); err != nil {
		t.Fatal(err)
	}
	n.Start(t)
	modes(t, dir)
	nobody := func(socket string) error {
		return exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS", "--unix-socket", socket, "http://x/v1/version").Run()
	}
	if out, err := exec.Command("curl", "-sS", "--unix-socket", sockets[1], "http://x/v1/version").CombinedOutput(); err != nil {
		t.Fatalf("root: %v: %s", err, out)
	}
	open := func(path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	open(dir, 0o755)
	open(filepath.Dir(dir), 0o755)
	for _, s := range sockets[:2] {
		if nobody(s) == nil {
			t.Errorf("%s lets somebody in", s)
		}
		open(s, 0o666)
		if nobody(s) == nil {
			t.Errorf("%s lets somebody in once its mode is 0666", s)
		}
		open(s, 0o600)
	}
	open(n.Dir, 0o755) // the state's directory is what keeps others from the embedded etcd
	if nobody(sockets[2]) == nil {
		t.Errorf("%s lets somebody in", sockets[2])
	}
}

// CVE-2024-33522: what is installed on the node gives nobody root's rights, and nobody but root can replace it.
func TestLine48TheInstalledPluginIsAPlainProgram(t *testing.T) {
	dir := testnode.ShortDir(t)
	n := testnode.Standard(t, "install.binDir="+dir+"/bin", "install.confFile="+dir+"/net.d/00-patchbay.conflist")
	testnode.Eventually(t, "the configuration is there", func() bool { _, err := os.Stat(dir + "/net.d/00-patchbay.conflist"); return err == nil })
	for path, want := range map[string]os.FileMode{
		"bin": os.ModeDir | 0o755, "bin/patchbay": 0o755, "bin/patchbay-ovs": 0o755, "bin/patchbay-ipam": 0o755,
		"net.d": os.ModeDir | 0o755, "net.d/00-patchbay.conflist": 0o600} {
		fi, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Error(err)
			continue
		}
		if s := fi.Sys().(*syscall.Stat_t); fi.Mode() != want || s.Uid != 0 || s.Gid != 0 {
			t.Errorf("%s is %s of %d:%d, want %s of root", path, fi.Mode(), s.Uid, s.Gid, want)
		}
	}
	n.AssertClean(t)
}

// What a configuration holds is between its author and its plugin: errors and logs don't have it.
func TestLine53ErrorsAndLogsHaveNoConfigurations(t *testing.T) {
	const secret = "s3cr3t-t0ken"
	n := newNode(t)
	n.nad("fine", `{"cniVersion": "1.0.0", "name": "fine", "type": "good", "password": "`+secret+`"}`)
	n.nad("fails", `{"cniVersion": "1.0.0", "name": "fails", "type": "wrong", "password": "`+secret+`"}`)
	n.nad("lacks", `{"cniVersion": "1.0.0", "name": "lacks", "type": "no-such-plugin", "password": "`+secret+`"}`)
	n.nad("unknown", `{"cniVersion": "1.0.0", "name": "unknown", "type": "patchbay-ovs", "network": "data", "password": "`+secret+`"}`)
	n.nad("torn", `{"cniVersion": "1.0.0", "name": "torn", "type": "good", "password": "`+secret+`", }`)
	n.nad("pool", `{"cniVersion": "1.0.0", "name": "pool", "type": "patchbay-ovs", "network": "data", "ipam": {"type": "patchbay-ipam", "network": "10.85.0.0/16", "subnetLen": 24, "password": "`+secret+`"}}`)
	n.Run(t, "a", "fine")
	var texts []string
	for _, network := range []string{"fails", "lacks", "unknown", "torn", "pool"} {
		_, err := n.TryRun("p", network)
		if err == nil {
			t.Errorf("a pod on network %s runs", network)
			continue
		}
		texts = append(texts, err.Error())
	}
	n.set("refusedel")
	if err := n.Remove("a"); err == nil {
		t.Error("DEL was refused, and is a success")
	} else {
		texts = append(texts, err.Error())
	}
	n.unset("refusedel")
	if _, why := n.healthy("detach"); why != "" {
		texts = append(texts, why)
	}
	conf := `{"cniVersion": "1.0.0", "name": "x", "type": "patchbay", "socket": "` + n.CNI + `", "password": "` + secret + `"`
	env := []string{"CNI_CONTAINERID=x", "CNI_NETNS=/run/netns/none", "CNI_IFNAME=eth0", "CNI_COMMAND=ADD"}
	for _, config := range []string{conf, conf + "}", conf + `, "prevResult": 5}`, strings.Replace(conf, `"1.0.0"`, `"9.9.9"`, 1) + "}", strings.Replace(conf, n.CNI, "/run/nobody.sock", 1) + `, "waitSeconds": 0}`} {
		if e := n.shim("patchbay", config, env...); e != nil {
			texts = append(texts, e.Error()+e.Details)
		}
	}
	log, err := os.ReadFile(n.Dir + "/patchbayd.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(texts, string(log)) {
		if at := strings.Index(text, secret); at >= 0 {
			t.Errorf("...%s", text[max(0, at-300):min(len(text), at+100)])
		}
	}
}

// Nothing that the daemon writes can be read by others: records, the queue of DELs, sockets.
func TestLine54WhatIsWrittenIsForRootOnly(t *testing.T) {
	n := testnode.Standard(t) // with an embedded etcd
	n.Run(t, "a", "data,control,bridge")
	n.Run(t, "b", "data")
	n.Daemon.Kill()
	if err := n.Remove("b"); err != nil { // queued by the plugin
		t.Fatal(err)
	}
	modes(t, n.Dir+"/state")
	n.Start(t)
	n.AwaitQueue(t)
	modes(t, n.Dir+"/state")
	if fi, err := os.Stat("/run/patchbay"); err == nil {
		modes(t, "/run/"+fi.Name())
	}
}

// modes fails for each file that others than its owner may do anything with.
func modes(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		files++
		if fi.Mode().Perm()&0o077 != 0 && fi.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s has mode %s", path, fi.Mode())
		}
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("%s: %d files, %v", dir, files, err)
	}
}
