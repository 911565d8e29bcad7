package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/test/e2e/cluster"
)

// A worker has one pod after the other.
type worker struct {
	s      *soak
	id     int
	rng    *rand.Rand
	serial int
	pod    *soakPod // nil between two
}

// A soakPod is a pod as it should be.
type soakPod struct {
	name     string
	uid      types.UID
	node     *cluster.Node
	networks []string
	claim    bool // the IPAMClaim keeps its address
	hot      map[string]*hotInterface
	steps    int // of its life
}

// A hotInterface is one that was asked for over REST.
type hotInterface struct {
	sandbox string
	state   hotState
}

type hotState int

const (
	hotUnknown hotState = iota // the call was not answered, or failed
	hotThere
	hotGone
)

// churn has pods come and go until the time, and leaves one.
func (w *worker) churn(end time.Time) {
	for time.Now().Before(end) {
		switch {
		case w.pod == nil:
			w.create()
		case w.pod.steps > 0:
			w.pod.steps--
			w.step()
		default:
			w.remove()
		}
	}
	if w.pod == nil {
		w.create()
	}
}

// create makes a pod on one of the nodes and waits until it is Ready. Half of the workers' pods have the names of
// those before, as a StatefulSet's have. The first worker's keep an address.
func (w *worker) create() {
	w.serial++
	p := &soakPod{name: fmt.Sprintf("w%d", w.id), node: c.Nodes[w.rng.IntN(len(c.Nodes))], hot: map[string]*hotInterface{}, steps: 1 + w.rng.IntN(6)}
	if w.id%2 == 1 {
		p.name += fmt.Sprintf("-%d", w.serial)
	}
	all := []string{"data", "control", "vlan", "bridge", "limited"}
	w.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	p.networks = all[:1+w.rng.IntN(3)]
	if w.serial == 1 { // each network is used on each node once, so that etcd's keys for it are there from then on
		p.node = c.Nodes[w.id%len(c.Nodes)]
		p.networks = [][]string{{"data", "control", "vlan"}, {"bridge", "limited"}}[w.id/2%2]
	}
	annotation := strings.Join(p.networks, ",")
	if w.id == 0 {
		p.node, p.claim, p.networks = c.Nodes[0], true, []string{"data", "control"} // an address is a node's
		annotation = `[{"name": "data", "ipam-claim-reference": "keep"}, {"name": "control"}]`
	}
	want := pod(p.name, "", annotation)
	want.Spec.NodeName = p.node.Name // kube-scheduler ends by itself over some of the faults
	want.Annotations["soak/serial"] = fmt.Sprint(w.serial)
	err := w.until(func(ctx context.Context) error {
		made, err := c.Client.CoreV1().Pods(w.s.ns).Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // the answer to the first try was lost
			made, err = c.Client.CoreV1().Pods(w.s.ns).Get(ctx, p.name, metav1.GetOptions{})
			if err == nil && made.Annotations["soak/serial"] != want.Annotations["soak/serial"] {
				err = errors.New("the pod before is there")
			}
		}
		if err == nil {
			p.uid = made.UID
		}
		return err
	})
	w.pod = p
	if err == nil {
		w.s.count("pods made")
		err = w.until(w.ready)
	}
	if err != nil {
		out, _ := c.Kubectl("describe", "pod", "-n", w.s.ns, p.name)
		w.s.fail(lostStart, "%s on %s: %v\n%s", p.name, p.node.Name, err, out[max(0, len(out)-3000):])
	}
}

// until tries until there is no error, for as long as faults and their consequences may last.
func (w *worker) until(try func(context.Context) error) error {
	var err error
	for begin := time.Now(); time.Since(begin) < 2*soakPatience; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = try(ctx)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}

func (w *worker) ready(ctx context.Context) error {
	p, err := c.Client.CoreV1().Pods(w.s.ns).Get(ctx, w.pod.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if p.UID != w.pod.uid || !isReady(p) {
		return fmt.Errorf("it is %s, with UID %s", p.Status.Phase, p.UID)
	}
	return nil
}

// step is one thing that happens to a pod.
func (w *worker) step() {
	hot := fmt.Sprintf("hot%d", w.rng.IntN(2))
	switch w.rng.IntN(8) {
	case 0, 1, 2:
		w.attach(hot)
	case 3, 4:
		w.detach(hot)
	case 5:
		patch := `{"metadata":{"annotations":{"` + meta.StatusAnnotation + `":"[]"}}}`
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if _, err := c.Client.CoreV1().Pods(w.s.ns).Patch(ctx, w.pod.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err == nil {
			w.s.count("status overwritten")
		}
	case 6:
		if w.rng.IntN(3) == 0 {
			w.killSandbox()
		}
	}
	time.Sleep(time.Duration(w.rng.IntN(1500)) * time.Millisecond) // a pod lives for a while
}

// sandbox returns the record of the pod's sandbox.
func (p *soakPod) sandbox() (*client.Sandbox, error) {
	all, err := ask(p.node, func(ctx context.Context, d *client.Client) ([]client.Sandbox, error) { return d.Sandboxes(ctx) })
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(s client.Sandbox) bool { return s.UID == string(p.uid) && !s.Ending })
	if i < 0 {
		return nil, fmt.Errorf("pod %s has no sandbox on %s", p.name, p.node.Name)
	}
	return &all[i], nil
}

// attach attaches the pod to a network, which it may be on already.
func (w *worker) attach(ifName string) {
	before, err := w.pod.sandbox()
	if err != nil {
		return
	}
	if h := w.pod.hot[ifName]; h != nil && h.sandbox == before.ContainerID && h.state == hotThere {
		return
	}
	network := []string{"data", "control", "vlan", "limited"}[w.rng.IntN(4)]
	h := &hotInterface{sandbox: before.ContainerID}
	w.pod.hot[ifName] = h
	_, err = ask(w.pod.node, func(ctx context.Context, d *client.Client) (*client.Attachment, error) {
		return d.Attach(ctx, w.s.ns, w.pod.name, client.Request{Network: network, Interface: ifName, UID: string(w.pod.uid)})
	})
	w.s.count(answered("attach", err))
	if after, again := w.pod.sandbox(); err == nil && again == nil && after.ContainerID == before.ContainerID {
		h.state = hotThere
	}
}

func (w *worker) detach(ifName string) {
	h := w.pod.hot[ifName]
	if h == nil || h.state != hotThere {
		return
	}
	h.state = hotUnknown
	_, err := ask(w.pod.node, func(ctx context.Context, d *client.Client) (any, error) {
		return nil, d.Detach(ctx, w.s.ns, w.pod.name, ifName)
	})
	w.s.count(answered("detach", err))
	if err == nil {
		h.state = hotGone
	}
}

func answered(what string, err error) string {
	if err != nil {
		return what + ", refused or not answered"
	}
	return what
}

// killSandbox kills the process that holds the pod's namespace: kubelet makes another sandbox.
func (w *worker) killSandbox() {
	old, err := w.pod.sandbox()
	if err != nil {
		return
	}
	if _, err := w.pod.node.Run(filepath.Join(c.Bin, "ctr"), "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", old.ContainerID); err != nil {
		return
	}
	w.s.count("sandbox killed")
	err = w.until(func(ctx context.Context) error {
		if now, err := w.pod.sandbox(); err != nil || now.ContainerID == old.ContainerID {
			return fmt.Errorf("no other sandbox (%v)", err)
		}
		return w.ready(ctx)
	})
	if err != nil {
		w.s.fail(lostStart, "%s on %s, whose sandbox was killed: %v", w.pod.name, w.pod.node.Name, err)
	}
}

// remove deletes the pod, at times after somebody has removed its namespace, and waits until it is gone.
func (w *worker) remove() {
	if w.pod == nil {
		return
	}
	if w.rng.IntN(10) == 0 {
		if sb, err := w.pod.sandbox(); err == nil {
			if _, err := w.pod.node.Run("ip", "netns", "del", path.Base(sb.Netns)); err == nil {
				w.s.count("namespace removed before the end")
			}
		}
	}
	grace := int64(w.rng.IntN(2))
	err := w.until(func(ctx context.Context) error {
		pods := c.Client.CoreV1().Pods(w.s.ns)
		err := pods.Delete(ctx, w.pod.name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &w.pod.uid}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		p, err := pods.Get(ctx, w.pod.name, metav1.GetOptions{})
		if err == nil && p.UID == w.pod.uid {
			err = fmt.Errorf("it is there")
		} else if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		w.s.fail(lostEnd, "%s on %s: %v", w.pod.name, w.pod.node.Name, err)
	}
	w.s.count("pods removed")
	w.pod = nil
}

// statusOf reads a pod's network-status.
func statusOf(p *corev1.Pod) (all []meta.NetworkStatus, err error) {
	err = json.Unmarshal([]byte(p.Annotations[meta.StatusAnnotation]), &all)
	return all, err
}
