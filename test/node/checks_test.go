package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

func aConfigurationOfAnotherName(t *testing.T) {
	n := testnode.Standard(t)
	n.Write(t, "n08.yaml", nad("one", `{"cniVersion": "1.0.0", "name": "another", "type": "patchbay-ovs", "network": "data"}`))
	n.Run(t, "a", "one")
	l, err := n.Client.Networks(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, nw := range l {
		if want := "its configuration is named another"; nw.Name == "one" && nw.Message != want || nw.Name == "data" && nw.Message != "" {
			t.Errorf("%s: %q", nw.Name, nw.Message)
		}
	}
}

func aPreviousResultIsPassedOn(t *testing.T) {
	n := testnode.Standard(t)
	const prev = `{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.1.2/24","interface":1}],"dns":{}}`
	ns := testnode.Netns(t, "chain")
	n.Write(t, "chain.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: chain, annotations: {k8s.v1.cni.cncf.io/networks: data}}\n")
	env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=chain", "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=/x", "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=chain"}
	conf := `{"cniVersion":"1.0.0","name":"x","type":"patchbay","socket":"` + n.CNI + `","prevResult":` + prev + `}`
	if out, code := shim(t, env, conf); code != 0 || out != prev {
		t.Errorf("patchbay behind another plugin: exit %d, %s", code, out)
	}
	testnode.Sh(t, "ip", "netns", "exec", "chain", "ip", "link", "show", "net1")
	del := append([]string{"CNI_COMMAND=DEL"}, env[1:]...)
	if out, code := shim(t, del, conf); code != 0 {
		t.Error(out)
	}

	conf = `{"cniVersion":"1.0.0","name":"x","type":"patchbay-ovs","network":"data","socket":"` + n.CNI + `","ipam":{"type":"patchbay-ipam","network":"10.52.0.0/16","subnetLen":24},"prevResult":` + prev + `}`
	out, code := called(t, "patchbay-ovs", env, conf)
	var r struct {
		Interfaces []struct{ Name string }
		IPs        []struct {
			Address   string
			Interface int
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || len(r.Interfaces) != 4 || len(r.IPs) != 2 ||
		r.Interfaces[1].Name != "eth0" || r.IPs[0].Interface != 1 || r.IPs[1].Address != "10.52.0.2/24" || r.IPs[1].Interface != 3 {
		t.Errorf("patchbay-ovs behind another plugin: exit %d, %s", code, out)
	}
	if out, code := called(t, "patchbay-ovs", del, conf); code != 0 {
		t.Error(out)
	}
	n.AssertEmpty(t)
}

func noSecondAddWithoutADel(t *testing.T) {
	r := newRecorded(t)
	s := r.Run(t, "a", "good")
	r.calls(t)
	if _, err := r.Runtime.Add(context.Background(), s); err == nil || !strings.Contains(err.Error(), "net1 is missing") {
		t.Errorf("an interface that is not there was answered for again: %v", err)
	}
	testnode.Exec(t, s, "ip", "link", "add", "net1", "type", "bridge") // as the plugin has said
	if _, err := r.Runtime.Add(context.Background(), s); err != nil {  // the runtime repeats its call
		t.Fatal(err)
	}
	if _, short := r.calls(t); short != "" {
		t.Errorf("the same ADD again called %s", short)
	}
	s.Annotations["k8s.v1.cni.cncf.io/networks"] = "good,good"
	if _, err := r.Runtime.Add(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	if _, short := r.calls(t); short != "DEL good net1, ADD good net1, ADD good net2" {
		t.Errorf("another ADD called %s", short)
	}
}

func delSucceedsWhateverIsMissing(t *testing.T) {
	n := testnode.Standard(t)
	ctx := context.Background()
	for name, lose := range map[string]func(netns string){
		"nothing":       func(string) {},
		"the interface": func(ns string) { testnode.Sh(t, "ip", "-n", ns, "link", "del", "net1") },
		"the namespace": func(ns string) { testnode.Sh(t, "ip", "netns", "del", ns) },
		"the port": func(string) {
			n.OVS.Vsctl(t, "del-port", n.OVS.Ports(t)[0])
		},
	} {
		s := n.Run(t, "a", "data,macvlan")
		lose(filepath.Base(s.Netns))
		for range 3 {
			if err := n.Runtime.Del(ctx, s); err != nil {
				t.Errorf("DEL without %s: %v", name, err)
			}
		}
		if err := n.Remove("a"); err != nil {
			t.Error(err)
		}
		n.AssertEmpty(t)
	}
}

func checkMindsWhatIsNotSeenInThePod(t *testing.T) {
	n := testnode.Standard(t)
	ctx := context.Background()
	want := func(pod, networks, lost string, lose func(netns string)) {
		t.Helper()
		s := n.Run(t, pod, networks)
		n.Check(t, s) // at once after ADD, too
		lose(filepath.Base(s.Netns))
		if err := n.Runtime.Check(ctx, s); err == nil || !strings.Contains(err.Error(), lost) {
			t.Errorf("%v, want %q", err, lost)
		}
	}
	want("in", "limited", "has lost its limit of 20000000 bit/s towards the pod", func(string) {
		n.OVS.Vsctl(t, "clear", "port", n.OVS.Ports(t)[0], "qos")
	})
	want("out", "limited", "has lost its limit of 20000000 bit/s", func(ns string) {
		testnode.Sh(t, "ip", "netns", "exec", ns, "tc", "qdisc", "del", "dev", "net1", "root")
	})
	want("address", "data", "address 10.12.0.2 of pool 10.12.0.0-16 is not reserved", func(string) {
		testnode.Sh(t, "etcdctl", "--endpoints", "unix://"+n.Dir+"/state/etcd.sock", "del", "--prefix", "/patchbay/v1/ipam/10.12.0.0-16/ips/")
	})
	want("host-local", "hostlocal", "host-local", func(string) {
		testnode.Sh(t, "rm", "-r", "/run/host-local/hostlocal")
	})
	want("daemon", "control", "Open vSwitch does not answer", func(string) {
		n.OVS.StopServer()
		testnode.Eventually(t, "patchbayd has noticed", func() bool {
			findings, err := n.Client.Doctor(ctx)
			return err == nil && slices.ContainsFunc(findings, func(f client.Finding) bool { return f.Check == "openvswitch" && !f.OK })
		})
	})
	n.OVS.StartServer(t)
}

func checkAndDelReachTheDelegates(t *testing.T) {
	r := newRecorded(t)
	s := r.Run(t, "a", "good,good")
	adds, _ := r.calls(t)
	r.Check(t, s)
	checks, short := r.calls(t)
	if short != "CHECK good net1, CHECK good net2" {
		t.Fatal(short)
	}
	config := func(line string) (conf map[string]json.RawMessage) {
		if err := json.Unmarshal([]byte(line[strings.Index(line, "{"):]), &conf); err != nil {
			t.Fatal(err)
		}
		return conf
	}
	for i := range adds {
		add, chk := config(adds[i]), config(checks[i])
		if chk["prevResult"] == nil {
			t.Error("CHECK without prevResult")
		}
		for k, v := range add {
			if string(chk[k]) != string(v) {
				t.Errorf("CHECK has %s %s, ADD had %s", k, chk[k], v)
			}
		}
	}
	if err := os.WriteFile(r.log+".failcheck", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Runtime.Check(context.Background(), s); err == nil || !strings.Contains(err.Error(), "lost something") {
		t.Errorf("a delegate's CHECK fails: %v", err)
	}
	r.calls(t)
	if err := r.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if _, short := r.calls(t); short != "DEL good net2, DEL good net1" {
		t.Error(short)
	}
}

// gcIsAlone calls GC among ADDs of a plugin that takes its time, and finds that none of them
// was in progress while GC was.
func gcIsAlone(t *testing.T) {
	dir := testnode.ShortDir(t)
	log := dir + "/log"
	slow := "#!/bin/sh\ncat > /dev/null\necho $CNI_COMMAND begin >> " + log + "\nsleep 0.3\necho $CNI_COMMAND end >> " + log + "\n[ $CNI_COMMAND = ADD ] && echo '{\"cniVersion\":\"1.1.0\"}'\nexit 0\n"
	if err := os.WriteFile(dir+"/slow", []byte(slow), 0o755); err != nil {
		t.Fatal(err)
	}
	n := testnode.Standard(t, "meta.cniBinDirs=["+dir+","+testnode.Bin()+","+testnode.PluginDirs+"]", "gc.interval=1h")
	n.Write(t, "slow.yaml", nad("slow", `{"cniVersion": "1.1.0", "name": "slow", "type": "slow"}`))
	var valid []string
	for _, p := range []string{"a", "b", "c", "d"} {
		valid = append(valid, `{"containerID":"`+n.Run(t, p, "").ContainerID+`","ifname":"eth0"}`)
	}
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "slow"}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, p := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			for range 3 {
				if _, err := n.Client.Attach(context.Background(), "default", p, client.Request{Network: "slow"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		wg.Go(func() {
			conf := `{"cniVersion":"1.1.0","name":"patchbay","type":"patchbay","socket":"` + n.CNI + `","cni.dev/valid-attachments":[` + strings.Join(valid, ",") + `]}`
			if out, code := shim(t, []string{"CNI_COMMAND=GC", "CNI_PATH=/x"}, conf); code != 0 {
				t.Error(out)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	adds, gcs := 0, 0
	for line := range strings.Lines(string(b)) {
		switch strings.TrimSpace(line) {
		case "ADD begin":
			if adds++; gcs%2 != 0 {
				t.Fatalf("ADD during GC:\n%s", b)
			}
		case "ADD end":
			adds--
		case "GC begin":
			if gcs++; adds != 0 {
				t.Fatalf("GC during ADD:\n%s", b)
			}
		case "GC end":
			gcs++
		}
	}
	if gcs != 6 {
		t.Errorf("GC reached the plugin %d/2 times, want 3", gcs)
	}
}
