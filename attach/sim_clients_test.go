package attach

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/meta"
)

// The networks of the simulation: with and without addresses, made by us, by a plugin, and by both.
var simNetworks = []string{
	`{"cniVersion": "1.1.0", "name": "addressed", "type": "native", "ipam": {"type": "patchbay-ipam", "network": "10.0.0.0/29", "subnetLen": 29}}`,
	`{"cniVersion": "1.1.0", "name": "plain", "type": "native"}`,
	`{"cniVersion": "1.1.0", "name": "foreign", "type": "executed"}`,
	`{"cniVersion": "1.1.0", "name": "leased", "type": "native", "ipam": {"type": "other-ipam"}}`,
	`{"cniVersion": "1.1.0", "name": "chained", "plugins": [{"type": "native"}, {"type": "executed"}]}`,
}

// wanted are interfaces on networks that follow from kind.
func (s *simulation) wanted(kind int, interfaces ...string) []meta.Wanted {
	var all []meta.Wanted
	for i, name := range interfaces {
		list, err := cniconf.Parse([]byte(simNetworks[(i+kind)%len(simNetworks)]), "")
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, meta.Wanted{Network: "default/" + list.Name, Interface: name, Config: list})
	}
	return all
}

// runtime is the container runtime's next call for a pod: an ADD, and a DEL in the end, each repeated
// while it fails.
func (s *simulation) runtime(i, round int) {
	p := &s.pods[i]
	if p.id == "" {
		p.turns++
		p.id = fmt.Sprintf("c%d-%d", i, p.turns)
	}
	if round < rounds-1 && !p.added {
		sandbox := Sandbox{ContainerID: p.id, Namespace: "default", Pod: fmt.Sprintf("p%d", i), Netns: s.namespaces[i], CNINetwork: "net"}
		s.doom(p.id, all...)
		e := s.engine
		made, err := e.Add(context.Background(), sandbox, s.wanted(i+p.turns, "net1", "net22", "net333"))
		if p.added = err == nil && e == s.engine; p.added {
			s.promised(made)
			return
		}
	}
	s.del(i)
}

// del calls DEL for a pod's sandbox; the pod has none once it is answered.
func (s *simulation) del(i int) {
	p := &s.pods[i]
	s.doom(p.id, all...)
	e := s.engine
	if err := e.Del(context.Background(), p.id); err == nil && e == s.engine {
		p.id, p.added = "", false
	}
}

// end ends a pod, with as many DELs as a runtime needs when nothing fails: one (I3).
func (s *simulation) end(i int) {
	if s.pods[i].id == "" {
		return
	}
	s.call("DEL", func() { s.del(i) })
	if s.pods[i].id != "" {
		s.fault("I3: a DEL fails although nothing else does")
	}
	s.call("DEL", func() {
		if err := s.engine.Del(context.Background(), "nobody"); err != nil {
			s.fault("I3: DEL of the unknown: %v", err)
		}
	})
}

// hot attaches an interface to a pod that runs, or detaches it.
func (s *simulation) hot(i int) {
	e, name := s.engine, fmt.Sprintf("p%d", i)
	have, err := e.Pod("default", name)
	if err != nil {
		return
	}
	if a := have.Find("net7"); a != nil {
		s.doom(have.ContainerID, "net7")
		_ = e.Detach(context.Background(), "default", name, "net7")
		return
	}
	s.doom(have.ContainerID, "net7")
	sandbox, a, _, err := e.Attach(context.Background(), "default", name, func(*Sandbox) (meta.Wanted, error) { return s.wanted(i, "net7")[0], nil })
	if err == nil && e == s.engine {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.doomed[delegates.Owner{ContainerID: sandbox.ContainerID, Interface: ""}] {
			return // its DEL is under way
		}
		delete(s.doomed, delegates.Owner{ContainerID: sandbox.ContainerID, Interface: a.Spec.Interface})
	}
}

// collect is GC by the runtime, which tells all sandboxes that it has, or the daemon's own.
func (s *simulation) collect() {
	s.mu.Lock()
	own := s.rng.IntN(2) == 0
	s.mu.Unlock()
	if own {
		_ = s.engine.Collect(context.Background())
		return
	}
	var valid []types.GCAttachment
	for i := range s.pods {
		if id := s.pods[i].id; id != "" {
			valid = append(valid, types.GCAttachment{ContainerID: id, IfName: "eth0"})
		}
	}
	_ = s.engine.GC(context.Background(), "net", valid)
}

// doom notes that what a sandbox has, or one interface of it, may be unmade from now on.
func (s *simulation) doom(id string, interfaces ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range interfaces {
		s.doomed[delegates.Owner{ContainerID: id, Interface: n}] = true
	}
}

// all are the interfaces that a sandbox can have; "" stands for the sandbox itself.
var all = []string{"", "net1", "net22", "net333", "net7"}

// promised notes what an ADD has answered, and that it is there (I4).
func (s *simulation) promised(made *Sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doomed, delegates.Owner{ContainerID: made.ContainerID})
	for _, a := range made.Attachments {
		o := delegates.Owner{ContainerID: made.ContainerID, Interface: a.Spec.Interface}
		delete(s.doomed, o)
		if !s.ports[o] && !s.plugged[o] {
			s.fault("I4: %v was answered for, and is not there", o)
		}
	}
}
