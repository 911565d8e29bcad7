package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// recorder writes down each call; "wrong" refuses every ADD.
const recorder = `#!/bin/sh
conf=$(cat)
echo "begin $CNI_COMMAND $(basename $0) $CNI_IFNAME netns=$(readlink /proc/self/ns/net) path=$CNI_PATH $conf" >> LOG
[ "$CNI_COMMAND" = ADD ] && [ $(basename $0) = wrong ] && { echo '{"code":123,"msg":"not found: no such file or directory"}'; exit 1; }
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}]}'
[ "$CNI_COMMAND" = CHECK ] && [ -e LOG.failcheck ] && { echo '{"code":100,"msg":"lost something"}'; exit 1; }
[ "$CNI_COMMAND" = DEL ] && [ -e LOG.faildel ] && { echo '{"code":11,"msg":"not found"}'; exit 1; }
exit 0
`

type recorded struct {
	*testnode.Node
	log string
}

// newRecorded is a node with the plugins good and wrong, which write down their calls.
func newRecorded(t *testing.T, set ...string) *recorded {
	t.Helper()
	dir := testnode.ShortDir(t)
	r := &recorded{log: dir + "/log"}
	for _, name := range []string{"good", "wrong"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(recorder, "LOG", r.log)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.Node = testnode.Standard(t, append(set, "meta.cniBinDirs=["+dir+","+testnode.Bin()+","+testnode.PluginDirs+"]")...)
	for _, name := range []string{"good", "wrong"} {
		r.Write(t, name+".yaml", nad(name, `{"cniVersion": "1.0.0", "name": "`+name+`", "type": "`+name+`", "kept": [1.50, null], "runtimeConfig": {"stale": 1}, "cni.dev/x": 1, "capabilities": {"a": true}}`))
	}
	return r
}

func nad(name, config string) string {
	return "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: " + name + "}\nspec: {config: '" + config + "'}\n"
}

// calls returns the calls since the last time, and of each the command, plugin and interface.
func (r *recorded) calls(t *testing.T) (lines []string, short string) {
	t.Helper()
	b, err := os.ReadFile(r.log)
	if err != nil {
		return nil, ""
	}
	_ = os.Remove(r.log)
	lines = strings.Split(strings.TrimSpace(string(b)), "\n")
	var l []string
	for _, line := range lines {
		l = append(l, strings.Join(strings.Fields(line)[1:4], " "))
	}
	return lines, strings.Join(l, ", ")
}

// TestConformance is the index of the tests that are named by their lines in docs/conformance.md.
func TestConformance(t *testing.T) {
	t.Run("N01 C10 C11 C12 C23 C25 C50 the shim is a CNI plugin", theShimIsACNIPlugin)
	t.Run("N08 a network says when its configuration has another name", aConfigurationOfAnotherName)
	t.Run("N15 N17 a request that nobody honours fails the pod", aRequestThatNobodyHonours)
	t.Run("N18 the interface name is used", theInterfaceNameIsUsed)
	t.Run("N26 the default route is taken over and given back", theDefaultRouteIsGivenBack)
	t.Run("N33 attachments tell who added them", attachmentsTellWhoAddedThem)
	t.Run("N48 C31 C45 a failed ADD stops and is followed by a DEL", aFailedAddIsFollowedByADel)
	t.Run("N50 C28 C30 calls for one pod never overlap", callsForOnePodNeverOverlap)
	t.Run("C09 C38 C43 C52 what a delegate is given", whatADelegateIsGiven)
	t.Run("C13 a previous result is passed on", aPreviousResultIsPassedOn)
	t.Run("C14 an existing interface is an error", anExistingInterfaceIsAnError)
	t.Run("C15 no second ADD without a DEL between", noSecondAddWithoutADel)
	t.Run("C16 DEL succeeds whatever is missing", delSucceedsWhateverIsMissing)
	t.Run("C17 C32 the configuration of a DEL is that of the ADD", theConfigurationIsThatOfTheAdd)
	t.Run("C18 containerd does not take the error of a failed DEL for success", aFailedDelIsNoSuccessToContainerd)
	t.Run("C20 CHECK minds shaping, reservation and daemon", checkMindsWhatIsNotSeenInThePod)
	t.Run("C21 C44 CHECK and DEL reach the delegates", checkAndDelReachTheDelegates)
	t.Run("C26 C27 GC keeps hot-attached interfaces of valid containers", gcKeepsHotAttachedInterfaces)
	t.Run("C26 C27 GC through libcni", gcThroughLibcni)
	t.Run("C29 GC is alone", gcIsAlone)
	t.Run("C47 C49 the results of patchbay-ovs and patchbay-ipam alone", resultsOfThePluginsAlone)
}

func theInterfaceNameIsUsed(t *testing.T) {
	n := testnode.Standard(t)
	s := n.Run(t, "a", "data@blue-0")
	testnode.Exec(t, s, "ip", "link", "show", "blue-0")
}

func attachmentsTellWhoAddedThem(t *testing.T) {
	n := testnode.Standard(t)
	n.Run(t, "a", "data")
	if _, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "control"}); err != nil {
		t.Fatal(err)
	}
	l, err := n.Client.List(context.Background(), client.Filter{Pod: "a"})
	if err != nil || len(l) != 2 || l[0].Source != "annotation" || l[1].Source != "api" || l[1].CreatedAt.IsZero() {
		t.Errorf("%+v, %v", l, err)
	}
}

func aFailedAddIsFollowedByADel(t *testing.T) {
	r := newRecorded(t)
	_, err := r.TryRun("a", "good,wrong,good")
	if err == nil || !strings.Contains(err.Error(), "plugin wrong") {
		t.Fatal(err)
	}
	if _, short := r.calls(t); short != "ADD good net1, ADD wrong net2, DEL wrong net2, DEL good net1" {
		t.Error(short)
	}
	r.AssertEmpty(t)
}

func whatADelegateIsGiven(t *testing.T) {
	r := newRecorded(t)
	r.Run(t, "a", "good")
	lines, _ := r.calls(t)
	if len(lines) != 1 {
		t.Fatal(lines)
	}
	for _, want := range []string{`"kept":[1.50,null]`, `"name":"good"`, `"cniVersion":"1.0.0"`, "path=" + filepath.Dir(r.log)} {
		if !strings.Contains(lines[0], want) && !strings.Contains(lines[0], strings.ReplaceAll(want, "path=", ":")) {
			t.Errorf("lacks %s: %s", want, lines[0])
		}
	}
	for _, not := range []string{"stale", "cni.dev/x", "capabilities"} {
		if strings.Contains(lines[0], not) {
			t.Errorf("has %s: %s", not, lines[0])
		}
	}
	if own, err := os.Readlink("/proc/self/ns/net"); err != nil || !strings.Contains(lines[0], "netns="+own) {
		t.Errorf("not run in the host's namespace %s: %s", own, lines[0])
	}
}

func anExistingInterfaceIsAnError(t *testing.T) {
	n := testnode.Standard(t)
	s := n.Run(t, "a", "")
	testnode.Exec(t, s, "ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
	_, err := n.Client.Attach(context.Background(), "default", "a", client.Request{Network: "data", Interface: "x0"})
	if err == nil || !strings.Contains(err.Error(), "has an interface of that name already") {
		t.Error(err)
	}
	testnode.Exec(t, s, "ip", "link", "show", "x0")
	n.AssertClean(t)
	if ports := n.OVS.Ports(t); len(ports) > 0 {
		t.Errorf("ports left: %v", ports)
	}
}

func aFailedDelIsNoSuccessToContainerd(t *testing.T) {
	r := newRecorded(t)
	s := r.Run(t, "a", "good")
	if err := os.WriteFile(r.log+".faildel", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := r.Runtime.Del(context.Background(), s)
	if err == nil || strings.Contains(err.Error(), "not found") || strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("%v", err)
	}
	if l, err := r.Client.List(context.Background(), client.Filter{Pod: "a"}); err != nil || len(l) != 1 {
		t.Errorf("the record must stay: %+v, %v", l, err)
	}
	if err := os.Remove(r.log + ".faildel"); err != nil {
		t.Fatal(err)
	}
	if err := r.Runtime.Del(context.Background(), s); err != nil {
		t.Error(err)
	}
	r.AssertEmpty(t)
}

func theConfigurationIsThatOfTheAdd(t *testing.T) {
	r := newRecorded(t)
	s := r.Run(t, "a", "good,data")
	lines, _ := r.calls(t)
	for _, f := range []string{"good.yaml", "networks.yaml"} { // NADs that are gone, and a daemon that starts anew
		if err := os.Remove(filepath.Join(r.Manifests, f)); err != nil {
			t.Fatal(err)
		}
	}
	r.Daemon.Kill()
	r.Start(t)
	if err := r.Runtime.Del(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	after, short := r.calls(t)
	if short != "DEL good net1" {
		t.Fatal(short)
	}
	var add, del map[string]json.RawMessage
	if err := json.Unmarshal([]byte(lines[0][strings.Index(lines[0], "{"):]), &add); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(after[0][strings.Index(after[0], "{"):]), &del); err != nil {
		t.Fatal(err)
	}
	if del["prevResult"] == nil { // C17
		t.Error("DEL without prevResult")
	}
	for k, v := range add {
		if string(del[k]) != string(v) {
			t.Errorf("%s was %s, is %s", k, v, del[k])
		}
	}
	r.AssertEmpty(t)
}

// callsForOnePodNeverOverlap attaches and detaches at once, with a DEL in between, on
// several pods, and finds each answered and nothing left.
func callsForOnePodNeverOverlap(t *testing.T) {
	n := testnode.Standard(t)
	pods := []string{"a", "b", "c"}
	for _, p := range pods {
		n.Run(t, p, "data")
	}
	var wg sync.WaitGroup
	for _, p := range pods {
		for _, nic := range []string{"x0", "x0", "x1", "x2"} {
			wg.Go(func() {
				for range 3 {
					// Either may be refused, as another call came first, but never half done.
					_, _ = n.Client.Attach(context.Background(), "default", p, client.Request{Network: "data", Interface: nic})
					_ = n.Client.Detach(context.Background(), "default", p, nic)
				}
			})
		}
		wg.Go(func() {
			if p == "b" {
				if err := n.Remove(p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n.AssertClean(t)
	if ports := n.OVS.Ports(t); len(ports) != 2 {
		t.Errorf("ports %v, want those of a and c", ports)
	}
}

func resultsOfThePluginsAlone(t *testing.T) {
	n := testnode.Standard(t)
	ns := testnode.Netns(t, "alone")
	env := []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=alone", "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=/x"}
	for plugin, conf := range map[string]string{
		"patchbay-ipam": `{"cniVersion":"1.0.0","name":"x","type":"bridge","socket":"` + n.CNI + `","ipam":{"type":"patchbay-ipam","network":"10.50.0.0/16","subnetLen":24}}`,
		"patchbay-ovs":  `{"cniVersion":"1.0.0","name":"x","type":"patchbay-ovs","socket":"` + n.CNI + `","network":"data","ipam":{"type":"patchbay-ipam","network":"10.51.0.0/16","subnetLen":24}}`,
	} {
		out, code := called(t, plugin, env, conf)
		var r struct {
			Interfaces []struct{ Name, Sandbox string }
			IPs        []struct{ Interface *int }
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || len(r.IPs) != 1 {
			t.Fatalf("%s: exit %d, %s", plugin, code, out)
		}
		if plugin == "patchbay-ipam" {
			if len(r.Interfaces) != 0 || r.IPs[0].Interface != nil {
				t.Errorf("an IPAM result has no interfaces: %s", out)
			}
		} else if len(r.Interfaces) != 2 || r.Interfaces[0].Sandbox != "" || r.Interfaces[1].Sandbox != ns || *r.IPs[0].Interface != 1 {
			t.Errorf("%s", out)
		}
		if out, code := called(t, plugin, append([]string{"CNI_COMMAND=DEL"}, env[1:]...), conf); code != 0 {
			t.Error(out)
		}
	}
	n.AssertEmpty(t)
}
