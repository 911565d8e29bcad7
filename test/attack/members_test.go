package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/test/testnode"
)

// members are an etcd of three.
type members struct {
	t         *testing.T
	dir       string
	endpoints []string
	processes []*testnode.Process
}

func startMembers(t *testing.T) *members {
	t.Helper()
	m := &members{t: t, dir: testnode.ShortDir(t)}
	for i := range 3 {
		m.endpoints = append(m.endpoints, fmt.Sprintf("http://127.0.0.1:%d", 3379+10*i))
		m.processes = append(m.processes, m.start(i))
	}
	t.Cleanup(func() {
		for _, p := range m.processes {
			p.Kill()
		}
	})
	testnode.Eventually(t, "the three are an etcd", func() bool { return m.leader() >= 0 })
	return m
}

// start starts a member, again after it was killed.
func (m *members) start(i int) *testnode.Process {
	m.t.Helper()
	var all []string
	for k := range 3 {
		all = append(all, fmt.Sprintf("m%d=http://127.0.0.1:%d", k, 3380+10*k))
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", 3379+10*i), fmt.Sprintf("http://127.0.0.1:%d", 3380+10*i)
	name := fmt.Sprint("m", i)
	return testnode.Start(m.t, filepath.Join(m.dir, name+".log"), nil, "etcd", "--name="+name, "--data-dir="+filepath.Join(m.dir, name), "--log-level=error",
		"--listen-client-urls="+client, "--advertise-client-urls="+client, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster="+strings.Join(all, ","))
}

// leader is the member that leads, -1 if there is none, or not all answer.
func (m *members) leader() int {
	out, err := exec.Command("etcdctl", "--endpoints", strings.Join(m.endpoints, ","), "endpoint", "status", "-w", "json").Output()
	var all []struct {
		Status struct {
			Header struct {
				Member uint64 `json:"member_id"`
			} `json:"header"`
			Leader uint64 `json:"leader"`
		}
	}
	if err != nil || json.Unmarshal(out, &all) != nil {
		return -1
	}
	for i, s := range all {
		if s.Status.Leader != 0 && s.Status.Leader == s.Status.Header.Member {
			return i
		}
	}
	return -1
}

// An etcd of three loses its leader, killed and hanging: pods come and go, at the latest when they are tried again. Without
// a quorum nobody is promised anything, and DELs wait; once it is back all is as it was.
func TestR5AnEtcdOfThreeMembers(t *testing.T) {
	m := startMembers(t)
	n := newNode(t, "etcd.endpoints=["+strings.Join(m.endpoints, ",")+"]")
	stays := n.Run(t, "stays", "data,headed")
	ctx := context.Background()
	comesAndGoes := func(name string) {
		t.Helper()
		s := n.pod(name, "data,headed")
		begin, tries := time.Now(), 0
		testnode.Eventually(t, name+" is there", func() bool {
			err := n.add(ctx, s)
			if e := (*types.Error)(nil); err != nil && (!errors.As(err, &e) || e.Code != types.ErrTryAgainLater) {
				t.Fatal(err)
			}
			tries++
			return err == nil
		})
		t.Logf("%s: ADD after %s, tried %d times", name, time.Since(begin).Round(time.Millisecond), tries)
		n.Check(t, s)
		n.mustDel(s)
	}
	leader := m.leader()
	m.processes[leader].Kill()
	comesAndGoes("killed")
	m.processes[leader] = m.start(leader)
	testnode.Eventually(t, "all three are there", func() bool { leader = m.leader(); return leader >= 0 })
	m.processes[leader].Signal(syscall.SIGSTOP)
	comesAndGoes("hangs")
	m.processes[leader].Signal(syscall.SIGCONT)
	testnode.Eventually(t, "all three are there", func() bool { leader = m.leader(); return leader >= 0 })

	ends := n.pod("ends", "data,headed")
	n.mustAdd(ends)
	others := []int{leader, (leader + 1) % 3}
	for _, i := range others {
		m.processes[i].Signal(syscall.SIGSTOP)
	}
	for begin := time.Now(); time.Since(begin) < 30*time.Second; {
		asked := time.Now()
		err := n.add(ctx, n.pod("no-quorum", "data"))
		if e := (*types.Error)(nil); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
			t.Errorf("an ADD without a quorum: %v", err)
		}
		if took := time.Since(asked); took > 30*time.Second {
			t.Errorf("it took %s", took)
		}
		_ = exec.Command("ip", "netns", "del", "no-quorum").Run()
	}
	n.mustDel(ends)
	for _, i := range others {
		m.processes[i].Signal(syscall.SIGCONT)
	}
	n.AwaitQueue(t)
	comesAndGoes("again")
	n.Check(t, stays)
	if ok, why := n.healthy("etcd-identity"); !ok {
		t.Error(why)
	}
	if err := n.Remove("stays"); err != nil {
		t.Error(err)
	}
	testnode.Eventually(t, "nothing is left", func() bool { l, err := n.Client.Sandboxes(ctx); return err == nil && len(l) == 0 })
	n.AssertEmpty(t)
}
