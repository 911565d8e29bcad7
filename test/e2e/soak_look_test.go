package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/internal/delqueue"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// The kinds of what can be lost.
const (
	lostOwner     = "addresses with two owners"
	lostClaim     = "claims that are not the attachments'"
	lostTrack     = "leftovers"
	lostInterface = "pods without one of their interfaces or addresses"
	lostPing      = "pings that were not answered"
	lostStatus    = "network-status that is not what the pod has"
	lostHealth    = "complaints of doctor"
	lostThread    = "threads outside the host's namespace"
	lostDaemon    = "daemons that ended by themselves"
	lostStart     = "pods that did not become Ready"
	lostEnd       = "pods that could not be deleted"
	lostHealing   = "faults that could not be ended"
	lostMeasure   = "needs that grow"
)

var kinds = []string{lostOwner, lostClaim, lostTrack, lostInterface, lostPing, lostStatus, lostHealth, lostThread, lostDaemon, lostStart, lostEnd, lostHealing, lostMeasure}

// A finding is something that is wrong.
type finding struct{ kind, text string }

// A look is what is found at one time.
type look struct {
	*soak
	mu        sync.Mutex
	wrong     []finding
	sandboxes map[string]client.Sandbox // by container ID
	claims    map[string]string         // address -> owner, as the attachments have it
}

func (l *look) say(kind, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, finding{kind, fmt.Sprintf(format, args...)})
}

// look compares etcd, the daemons, Open vSwitch, the kernel and the API server with what the pods should have.
func (s *soak) look() []finding {
	l := &look{soak: s, sandboxes: map[string]client.Sandbox{}, claims: map[string]string{}}
	for _, n := range c.Nodes {
		l.node(n)
	}
	if len(l.wrong) > 0 { // the rest would say the same again
		return l.wrong
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pods, err := c.Client.CoreV1().Pods(s.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		l.say(lostStart, "list the pods: %v", err)
		return l.wrong
	}
	mine := 0
	for _, w := range s.workers {
		if w.pod == nil {
			continue
		}
		mine++
		i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.UID == w.pod.uid })
		if i < 0 || !isReady(&pods.Items[i]) {
			l.say(lostStart, "%s on %s", w.pod.name, w.pod.node.Name)
			continue
		}
		l.pod(w.pod, &pods.Items[i])
	}
	if mine != len(pods.Items) {
		l.say(lostEnd, "there are %d pods, and should be %d", len(pods.Items), mine)
	}
	if mine != len(l.sandboxes) {
		l.say(lostTrack, "there are %d sandboxes of %d pods: %v", len(l.sandboxes), mine, slices.Collect(maps.Keys(l.sandboxes)))
	}
	l.etcd(ctx)
	if len(l.wrong) == 0 {
		l.pings()
	}
	l.wrong = append(l.wrong, s.owners.twice()...)
	if len(l.wrong) == 0 {
		l.learn()
	}
	return l.wrong
}

// learn notes which interfaces are there that may be or not, as a call was not answered or the sandbox is another.
func (l *look) learn() {
	for _, w := range l.workers {
		if w.pod == nil {
			continue
		}
		clear(w.pod.hot)
		for _, sb := range l.sandboxes {
			for _, a := range sb.Attachments {
				if sb.UID == string(w.pod.uid) && strings.HasPrefix(a.Interface, "hot") {
					w.pod.hot[a.Interface] = &hotInterface{sandbox: sb.ContainerID, state: hotThere}
				}
			}
		}
	}
}

// node looks at what a node has, by its daemon's word and its own.
func (l *look) node(n *cluster.Node) {
	pid, err := pidOf(n, "patchbayd")
	if err != nil || pid != l.pids[n.Name] {
		l.say(lostDaemon, "that of %s is process %d, and was %d (%v)", n.Name, pid, l.pids[n.Name], err)
		return
	}
	for _, thread := range threadsOutside(n, pid) {
		l.say(lostThread, "%s: %s", n.Name, thread)
	}
	findings, err := ask(n, func(ctx context.Context, d *client.Client) ([]client.Finding, error) { return d.Doctor(ctx) })
	if err != nil {
		l.say(lostHealth, "%s: %v", n.Name, err)
		return
	}
	for _, f := range findings {
		if !f.OK {
			l.say(lostHealth, "%s: %s: %s", n.Name, f.Check, f.Message)
		}
	}
	if left, err := ask(n, func(ctx context.Context, d *client.Client) ([]client.Leftover, error) { return d.Leftovers(ctx) }); err != nil || len(left) > 0 {
		l.say(lostTrack, "%s: %+v, %v", n.Name, left, err)
	}
	if queued, err := delqueue.Len(n.Path(delqueue.DefaultDir)); err != nil || queued > 0 {
		l.say(lostTrack, "%s: %d DELs are queued, %v", n.Name, queued, err)
	}
	all, err := ask(n, func(ctx context.Context, d *client.Client) ([]client.Sandbox, error) { return d.Sandboxes(ctx) })
	if err != nil {
		l.say(lostHealth, "%s: %v", n.Name, err)
		return
	}
	ports := map[string]bool{}
	for _, s := range all {
		l.sandboxes[s.ContainerID] = s
		for _, a := range s.Attachments {
			if a.Port != "" {
				ports[a.Port] = true
			}
		}
	}
	want := slices.Sorted(maps.Keys(ports))
	if have, err := portsOf(n); err != nil || !slices.Equal(have, want) {
		l.say(lostTrack, "%s has the ports %v, and the attachments %v (%v)", n.Name, have, want, err)
	}
	if have, err := linksOf(n); err != nil || !slices.Equal(have, want) {
		l.say(lostTrack, "%s has the links %v, and the attachments %v (%v)", n.Name, have, want, err)
	}
}

// threadsOutside are the threads that stay in another network namespace than the node's. One that does something in
// a pod's is back soon.
func threadsOutside(n *cluster.Node, pid int) (stay []string) {
	for i := range 20 {
		if i > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		host, _ := os.Readlink(n.Path("/proc/1/ns/net"))
		tasks, _ := filepath.Glob(n.Path(fmt.Sprintf("/proc/%d/task/*/ns/net", pid)))
		var outside []string
		for _, task := range tasks {
			thread := fmt.Sprintf("thread %s in ", filepath.Base(filepath.Dir(filepath.Dir(task))))
			if ns, err := os.Readlink(task); err == nil && ns != host && (i == 0 || slices.Contains(stay, thread+ns)) {
				outside = append(outside, thread+ns)
			}
		}
		if stay = outside; len(stay) == 0 {
			return nil
		}
	}
	return stay
}

// portsOf are the ports of pods.
func portsOf(n *cluster.Node) ([]string, error) {
	out, err := n.Run("ovs-vsctl", "--timeout=5", "--bare", "--columns=name", "find", "port", `external_ids:patchbay-sandbox!=""`)
	names := strings.Fields(out)
	slices.Sort(names)
	return names, err
}

// linksOf are the host's ends of pods' links.
func linksOf(n *cluster.Node) (names []string, err error) {
	out, err := n.Run("ip", "-o", "link", "show", "type", "veth")
	for line := range strings.Lines(out) {
		if name, _, _ := strings.Cut(strings.Fields(line)[1], "@"); strings.HasPrefix(name, "pb") {
			names = append(names, strings.TrimSuffix(name, ":"))
		}
	}
	slices.Sort(names)
	return names, err
}

// An inPod is an interface as the pod has it.
type inPod struct {
	Name  string `json:"ifname"`
	MAC   string `json:"address"`
	Addrs []struct {
		Local string `json:"local"`
		Scope string `json:"scope"`
	} `json:"addr_info"`
}

func (i inPod) ips() (all []string) {
	for _, a := range i.Addrs {
		if a.Scope == "global" {
			all = append(all, a.Local)
		}
	}
	slices.Sort(all)
	return all
}

// pod looks at what a pod has, by its sandbox's record, its own word and its network-status.
func (l *look) pod(p *soakPod, object *corev1.Pod) {
	var sb *client.Sandbox
	for _, s := range l.sandboxes {
		if s.UID != string(p.uid) {
			continue
		}
		if sb != nil || s.Node != p.node.Name {
			l.say(lostTrack, "pod %s of %s has a sandbox on %s", p.name, p.node.Name, s.Node)
		}
		sb = &s
	}
	if sb == nil {
		l.say(lostInterface, "%s has no sandbox on %s", p.name, p.node.Name)
		return
	}
	out, err := p.node.Run("nsenter", "--net="+sb.Netns, "ip", "-j", "addr")
	var have []inPod
	if err == nil {
		err = json.Unmarshal([]byte(out), &have)
	}
	if err != nil {
		l.say(lostInterface, "look into %s: %v", p.name, err)
		return
	}
	inside, recorded, told := map[string]string{}, map[string]string{}, map[string]string{}
	for _, i := range have {
		if i.Name != "lo" {
			inside[i.Name] = fmt.Sprint(i.MAC, i.ips())
		}
	}
	for _, a := range sb.Attachments {
		recorded[a.Interface] = fmt.Sprint(a.MAC, bare(a.IPs))
		for _, ip := range bare(a.IPs) {
			l.claim(p, sb, a, ip)
		}
	}
	status, err := statusOf(object)
	for _, s := range status {
		told[s.Interface] = fmt.Sprint(s.MAC, bare(s.IPs))
	}
	if !maps.Equal(inside, recorded) {
		l.say(lostInterface, "%s on %s has %v, and its record %v", p.name, p.node.Name, inside, recorded)
	}
	if err != nil || !maps.Equal(told, recorded) {
		l.say(lostStatus, "%s: %v, and the record %v (%v)", p.name, told, recorded, err)
	}
	want := []string{"eth0"}
	for i := range p.networks {
		want = append(want, fmt.Sprintf("net%d", i+1))
	}
	for name, h := range p.hot {
		if _, there := recorded[name]; h.sandbox == sb.ContainerID && (h.state == hotThere || h.state == hotUnknown && there) {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if now := slices.Sorted(maps.Keys(recorded)); !slices.Equal(now, want) {
		l.say(lostInterface, "%s on %s has %v, and should have %v", p.name, p.node.Name, now, want)
	}
}

// bare are addresses without their lengths, sorted.
func bare(ips []string) (all []string) {
	for _, ip := range ips {
		ip, _, _ = strings.Cut(ip, "/")
		all = append(all, ip)
	}
	slices.Sort(all)
	return all
}

// claim notes an address that an attachment has.
func (l *look) claim(p *soakPod, sb *client.Sandbox, a client.Attachment, ip string) {
	if a.Interface == "eth0" {
		return // the cluster network's plugin has given it
	}
	owner := sb.ContainerID + " " + a.Interface
	if p.claim && a.Interface == "net1" {
		owner = "IPAMClaim " + l.ns + "/keep"
	}
	if other, is := l.claims[ip]; is {
		l.say(lostOwner, "%s: %s, and %s", ip, other, owner)
	}
	l.claims[ip] = owner
}

// etcd looks whether the keys are those of the pods that there are, and no others.
func (l *look) etcd(ctx context.Context) {
	claimed, err := l.owners.read(ctx)
	if err != nil {
		l.say(lostClaim, "etcd: %v", err)
		return
	}
	for ip, owners := range claimed {
		if len(owners) > 1 {
			l.say(lostOwner, "%s: %v", ip, owners)
		}
		if owners[0] != l.claims[ip] {
			l.say(lostClaim, "etcd says that %s is of %q, and it is of %q", ip, owners[0], l.claims[ip])
		}
	}
	for ip, owner := range l.claims {
		if claimed[ip] == nil {
			l.say(lostClaim, "%s of %s is not claimed", ip, owner)
		}
	}
	keys, err := l.keys(ctx)
	if err != nil {
		l.say(lostTrack, "etcd: %v", err)
	}
	for kind, have := range map[string]int{"sandboxes": keys["sandboxes"], "pods": keys["pods"]} {
		if have != len(l.sandboxes) {
			l.say(lostTrack, "etcd has %d %s, and there are %d sandboxes", have, kind, len(l.sandboxes))
		}
	}
}

// pings has every pod ask another one on each of its networks, on the other node if one is there.
func (l *look) pings() {
	type end struct {
		pod, ifName string
		node        *cluster.Node
		netns, ip   string
	}
	byNetwork := map[string][]end{}
	for _, sb := range l.sandboxes {
		for _, n := range c.Nodes {
			for _, a := range sb.Attachments {
				if n.Name == sb.Node && a.Network != "" && !strings.HasSuffix(a.Network, "/bridge") {
					byNetwork[a.Network] = append(byNetwork[a.Network], end{sb.Pod, a.Interface, n, sb.Netns, bare(a.IPs)[0]})
				}
			}
		}
	}
	var wg sync.WaitGroup
	for network, ends := range byNetwork {
		slices.SortFunc(ends, func(a, b end) int { return strings.Compare(a.node.Name+a.pod+a.ifName, b.node.Name+b.pod+b.ifName) })
		for i, from := range ends {
			to := ends[(i+len(ends)/2)%len(ends)]
			if addr, err := netip.ParseAddr(to.ip); err != nil || to.pod == from.pod || addr.IsLoopback() {
				continue
			}
			wg.Go(func() {
				if out, err := from.node.Run("nsenter", "--net="+from.netns, "ping", "-c3", "-i0.3", "-W1", "-I", from.ifName, to.ip); err != nil && !strings.Contains(out, " bytes from ") {
					l.say(lostPing, "%s %s on %s to %s on %s, network %s", from.pod, from.ifName, from.node.Name, to.pod, to.node.Name, network)
				}
			})
		}
	}
	wg.Wait()
}
