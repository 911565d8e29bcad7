package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// A fault is done to a part of a node, "" for all of it, and is over when do returns. Two are not done to the same part
// at once.
type fault struct {
	name string
	on   []int // the nodes that it may be done to, by index
	part string
	do   func(h *hand, n *cluster.Node) error
}

// errNotNow says that there was nothing to be done to.
var errNotNow = errors.New("not now")

var (
	onEither = []int{0, 1}
	onFirst  = []int{0} // where the daemons' etcd is
	onSecond = []int{1} // whose daemon may be killed
)

var soakFaults = []fault{
	{"patchbayd is killed", onSecond, "patchbayd", func(h *hand, n *cluster.Node) error { return h.endDaemon(n, syscall.SIGKILL) }},
	{"patchbayd is ended", onSecond, "patchbayd", func(h *hand, n *cluster.Node) error { return h.endDaemon(n, syscall.SIGTERM) }},
	{"patchbayd hangs", onEither, "patchbayd", func(h *hand, n *cluster.Node) error { return h.freeze(n, "patchbayd") }},
	{"etcd is killed", onFirst, "etcd", killEtcd},
	{"etcd hangs", onFirst, "etcd", func(h *hand, n *cluster.Node) error { return h.freeze(n, "etcd") }},
	{"etcd is slow", onFirst, "etcd", slowEtcd},
	{"a node is cut off from etcd", onEither, "network", cutOffEtcd},
	{"ovsdb-server is away", onEither, "ovsdb-server", func(h *hand, n *cluster.Node) error { return h.away(n, n.OVSDB, n.StartOVSDB) }},
	{"ovsdb-server hangs", onEither, "ovsdb-server", func(h *hand, n *cluster.Node) error { return h.hang(n.OVSDB) }},
	{"ovs-vswitchd is away", onEither, "ovs-vswitchd", func(h *hand, n *cluster.Node) error { return h.away(n, n.Switchd, n.StartSwitchd) }},
	{"ovs-vswitchd hangs", onEither, "ovs-vswitchd", func(h *hand, n *cluster.Node) error { return h.hang(n.Switchd) }},
	{"the API server is away", onFirst, "apiserver", func(h *hand, _ *cluster.Node) error {
		c.APIServer.Kill()
		h.wait()
		return c.StartAPIServer()
	}},
	{"the API server hangs", onFirst, "apiserver", func(h *hand, _ *cluster.Node) error { return h.hang(c.APIServer) }},
	{"kubelet is away", onEither, "kubelet", func(h *hand, n *cluster.Node) error { return h.away(n, n.Kubelet, n.StartKubelet) }},
	{"containerd is away", onEither, "containerd", func(h *hand, n *cluster.Node) error { return h.away(n, n.Containerd, n.StartContainerd) }},
	{"containerd hangs", onEither, "containerd", func(h *hand, n *cluster.Node) error { return h.hang(n.Containerd) }},
	{"a port is removed by hand", onEither, "port", func(h *hand, n *cluster.Node) error {
		return h.withPort(n, func(port string) []string { return []string{"ovs-vsctl", "--timeout=5", "del-port", port} })
	}},
	{"a host's end is set down", onEither, "port", func(h *hand, n *cluster.Node) error {
		return h.withPort(n, func(port string) []string { return []string{"ip", "link", "set", port, "down"} })
	}},
	{"a bridge is removed by hand", onEither, "bridge", func(_ *hand, n *cluster.Node) error {
		return ifAny(n.Run("ovs-vsctl", "--timeout=5", "del-br", "br-data"))
	}},
	{"addresses in a pod are removed", onEither, "port", flush},
	{"the node loses its power", onSecond, "", reboot},
}

// A deck deals the faults out: each of them, in any order, and then again.
type deck struct {
	s *soak

	mu      sync.Mutex
	rng     *rand.Rand
	cards   []int
	serial  uint64
	taken   []string // parts of nodes
	times   []int    // by fault
	seconds []time.Duration
}

func newDeck(s *soak, rng *rand.Rand) *deck {
	return &deck{s: s, rng: rng, times: make([]int, len(soakFaults)), seconds: make([]time.Duration, len(soakFaults))}
}

// A hand is what does one fault.
type hand struct {
	s   *soak
	rng *rand.Rand
}

// play does one fault after the other until the time.
func (d *deck) play(end time.Time) {
	for {
		i, n, part, h := d.deal()
		time.Sleep(time.Duration(h.rng.IntN(3000)) * time.Millisecond) // the time is random
		if !time.Now().Before(end) {
			d.back(part)
			return
		}
		begin := time.Now()
		err := soakFaults[i].do(h, n)
		d.back(part)
		if err != nil && !errors.Is(err, errNotNow) {
			d.s.fail(lostHealing, "%s on %s: %v", soakFaults[i].name, n.Name, err)
			return
		}
		d.mu.Lock()
		if err == nil {
			d.times[i]++
			d.seconds[i] += time.Since(begin)
		}
		d.mu.Unlock()
	}
}

// deal returns the next fault, by index, and takes the part of the node that it is done to.
func (d *deck) deal() (int, *cluster.Node, string, *hand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := 0; ; k++ {
		if k >= len(d.cards) {
			d.cards = append(d.cards, d.rng.Perm(len(soakFaults))...)
		}
		f := soakFaults[d.cards[k]]
		n := c.Nodes[f.on[d.rng.IntN(len(f.on))]]
		part := n.Name + "/" + f.part
		if slices.ContainsFunc(d.taken, func(t string) bool { return strings.HasPrefix(t, part) || strings.HasPrefix(part, t) }) {
			continue
		}
		i := d.cards[k]
		d.cards = slices.Delete(d.cards, k, k+1)
		d.taken = append(d.taken, part)
		d.serial++
		return i, n, part, &hand{d.s, random(d.rng.Uint64(), d.serial)}
	}
}

func (d *deck) back(part string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(d.taken, part)
	d.taken = slices.Delete(d.taken, i, i+1)
}

func (d *deck) report(w io.Writer) {
	for i, f := range soakFaults {
		fmt.Fprintf(w, "%s\t%d\t%.0f\n", f.name, d.times[i], d.seconds[i].Seconds())
	}
}

// wait is how long a fault lasts.
func (h *hand) wait() { time.Sleep(time.Duration(500+h.rng.IntN(7500)) * time.Millisecond) }

// pidOf returns the process of that name on a node, as the node knows it.
func pidOf(n *cluster.Node, name string) (int, error) {
	out, err := n.Run("pgrep", "-o", "-x", name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

func send(n *cluster.Node, name string, s syscall.Signal) error {
	pid, err := pidOf(n, name)
	if err != nil {
		return errNotNow // it is being started
	}
	return ifAny(n.Run("kill", fmt.Sprintf("-%d", s), strconv.Itoa(pid)))
}

// ifAny is errNotNow where there was nothing to do something to.
func ifAny(_ string, err error) error {
	if err != nil {
		return errNotNow
	}
	return nil
}

// endDaemon ends the daemon of a node, and waits until its next process answers.
func (h *hand) endDaemon(n *cluster.Node, s syscall.Signal) error {
	old, err := pidOf(n, "patchbayd")
	if err != nil {
		return errNotNow
	}
	if err := send(n, "patchbayd", s); err != nil {
		return err
	}
	return h.awaitDaemon(n, old)
}

func (h *hand) awaitDaemon(n *cluster.Node, old int) error {
	err := errors.New("it has not begun")
	for begin := time.Now(); time.Since(begin) < soakPatience; time.Sleep(100 * time.Millisecond) { // kubelet starts it
		pid, no := pidOf(n, "patchbayd")
		if err = no; err != nil || pid == old {
			continue
		}
		if _, err = ask(n, func(ctx context.Context, d *client.Client) (*client.Version, error) { return d.Version(ctx) }); err == nil {
			h.s.known(n)
			return nil
		}
	}
	return fmt.Errorf("patchbayd does not come back: %w", err)
}

// freeze has a process of a pod do nothing for a while.
func (h *hand) freeze(n *cluster.Node, name string) error {
	if err := send(n, name, syscall.SIGSTOP); err != nil {
		return err
	}
	h.wait()
	return send(n, name, syscall.SIGCONT)
}

// hang has a server do nothing for a while.
func (h *hand) hang(p *cluster.Process) error {
	if err := p.Freeze(); err != nil {
		return err
	}
	h.wait()
	return p.Thaw()
}

// away ends a server and starts it again after a while.
func (h *hand) away(n *cluster.Node, p *cluster.Process, start func() error) error {
	n.StopNow(p)
	h.wait()
	return start()
}

// killEtcd kills etcd, and waits until its next process answers.
func killEtcd(h *hand, n *cluster.Node) error {
	old, err := pidOf(n, "etcd")
	if err != nil || send(n, "etcd", syscall.SIGKILL) != nil {
		return errNotNow
	}
	for begin := time.Now(); time.Since(begin) < soakPatience; time.Sleep(100 * time.Millisecond) { // kubelet starts it
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err = h.s.etcd.Get(ctx, "x")
		cancel()
		if pid, no := pidOf(n, "etcd"); no == nil && pid != old && err == nil {
			return nil
		}
	}
	return fmt.Errorf("etcd does not come back: %w", err)
}

// slowEtcd has etcd work a tenth of the time.
func slowEtcd(h *hand, n *cluster.Node) error {
	for end := time.Now().Add(time.Duration(2+h.rng.IntN(5)) * time.Second); time.Now().Before(end); {
		if err := send(n, "etcd", syscall.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(270 * time.Millisecond) // it is the fault
		if err := send(n, "etcd", syscall.SIGCONT); err != nil {
			return err
		}
		time.Sleep(30 * time.Millisecond)
	}
	return nil
}

// cutOffEtcd drops what goes to etcd and comes from it.
func cutOffEtcd(h *hand, n *cluster.Node) error {
	const rules = "table inet soak { chain out { type filter hook output priority 0; tcp dport 12379 drop; }; chain in { type filter hook input priority 0; tcp sport 12379 drop; }; }"
	if _, err := n.Run("nft", rules); err != nil {
		return err
	}
	h.wait()
	_, err := n.Run("nft", "delete table inet soak")
	return err
}

// withPort does something to one of our ports.
func (h *hand) withPort(n *cluster.Node, what func(port string) []string) error {
	ports, err := portsOf(n)
	if err != nil || len(ports) == 0 {
		return errNotNow
	}
	words := what(ports[h.rng.IntN(len(ports))])
	return ifAny(n.Run(words[0], words[1:]...))
}

// flush removes the addresses of some pod's first interface.
func flush(h *hand, n *cluster.Node) error {
	all, err := ask(n, func(ctx context.Context, d *client.Client) ([]client.Sandbox, error) { return d.Sandboxes(ctx) })
	if err != nil || len(all) == 0 {
		return errNotNow
	}
	netns := all[h.rng.IntN(len(all))].Netns
	return ifAny(n.Run("nsenter", "--net="+netns, "ip", "addr", "flush", "dev", "net1"))
}

// reboot takes a node's power, and boots it.
func reboot(h *hand, n *cluster.Node) error {
	n.Crash()
	if err := n.Boot(); err != nil {
		return err
	}
	return h.awaitDaemon(n, 0)
}
