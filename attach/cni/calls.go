package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniresult"
	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
	"github.com/patchbay-cni/patchbay/meta/multus"
)

// annotationsCapability is how containerd and CRI-O hand over a pod's annotations.
const annotationsCapability = "io.kubernetes.cri.pod-annotations"

// podCall is a call of the meta-plugin: for a pod, all its attachments.
func (s *Server) podCall(ctx context.Context, c *call) (any, error) {
	switch c.Command {
	case "ADD":
		return s.addPod(ctx, c)
	case "DEL":
		return nil, s.Engine.Del(ctx, c.ContainerID)
	case "CHECK":
		return nil, s.Engine.Check(ctx, c.ContainerID)
	default: // GC; others are refused by Validate
		if err := failpoint.Hit("cni-gc"); err != nil {
			return nil, err
		}
		return nil, s.Engine.GC(ctx, c.conf.Name, c.valid())
	}
}

func (s *Server) addPod(ctx context.Context, c *call) (result any, err error) {
	if err := failpoint.Hit("cni-add"); err != nil {
		return nil, err
	}
	pod, err := s.annotated(ctx, c)
	if err == nil {
		result, err = s.attachAll(ctx, c, pod)
	}
	if err != nil {
		return nil, s.Engine.Failed(attach.ReasonFailedAttach, pod, err)
	}
	return result, nil
}

func (s *Server) attachAll(ctx context.Context, c *call, pod meta.Pod) (any, error) {
	planner, err := s.planner(c)
	if err != nil {
		return nil, err
	}
	wanted, err := planner.Plan(ctx, pod, c.IfName, c.conf.RuntimeConfig)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if prev := c.conf.PrevResult; prev != nil && len(wanted) > 0 && wanted[0].Source == meta.SourceCluster {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "an earlier plugin of the list has made "+c.IfName+", which is the cluster network's",
			"leave meta.clusterNetwork empty, or put patchbay first")
	}
	if err := failpoint.Hit("cni-planned"); err != nil {
		return nil, err
	}
	sandbox := c.sandbox()
	sandbox.CNINetwork = c.conf.Name
	made, err := s.Engine.Add(ctx, sandbox, wanted)
	if err != nil {
		return nil, err
	}
	if err := failpoint.Hit("cni-added"); err != nil {
		return nil, err
	}
	if c.conf.PrevResult != nil {
		return c.conf.PrevResult, nil // chained behind the plugin of the cluster network: that is the result
	}
	return meta.Result(made.Made(), c.conf.CNIVersion)
}

// planner is that of the daemon, or what a netconf of Multus, with our type, makes of it.
func (s *Server) planner(c *call) (*meta.Planner, error) {
	conf, _, err := multus.Parse(c.Config)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration", err.Error())
	}
	if !conf.Any() {
		return s.Planner, nil
	}
	cfg, err := conf.Over(s.Planner.Config())
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return s.Planner.With(cfg), nil
}

// annotated returns the pod with its annotations: from the runtime itself, else from the catalog. A caller
// that is not for a pod (no K8S_POD_NAME) gets the cluster network alone.
func (s *Server) annotated(ctx context.Context, c *call) (meta.Pod, error) {
	pod := c.pod
	if raw := c.conf.RuntimeConfig[annotationsCapability]; raw != nil {
		if err := json.Unmarshal(raw, &pod.Annotations); err != nil {
			return pod, types.NewError(types.ErrDecodingFailure, "capability "+annotationsCapability, explain.JSON(raw, err))
		}
		return pod, nil
	}
	if pod.Name == "" {
		return pod, nil
	}
	known, err := s.Catalog.Pod(ctx, pod.Namespace, pod.Name, pod.UID)
	if err != nil {
		return pod, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	pod.Annotations = known.Annotations
	return pod, nil
}

// interfaceCall is a call of the OVS delegate alone: one interface.
func (s *Server) interfaceCall(ctx context.Context, c *call) (any, error) {
	switch c.Command {
	case "ADD":
		list, err := cniconf.Parse(c.Config, c.conf.Name)
		if err != nil {
			return nil, err
		}
		list.Plugins[0].Type = "patchbay-ovs" // whatever name it was installed under
		requests, err := delegates.ParseRequests(c.conf.RuntimeConfig)
		if err != nil {
			return nil, err
		}
		if requests.IPs, err = c.addresses(); err != nil {
			return nil, err
		}
		a, err := s.Engine.AddInterface(ctx, c.sandbox(), meta.Wanted{Source: meta.SourceDirect, Interface: c.IfName, Config: list, Requests: requests})
		if err != nil {
			return nil, err
		}
		return c.chained(a.Status.Result)
	case "DEL":
		return nil, s.Engine.DelInterface(ctx, c.ContainerID, c.IfName)
	case "GC":
		return nil, s.Engine.GCInterfaces(ctx, c.conf.Name, c.valid())
	default: // the others are of the sandbox or the node, whoever calls
		return s.podCall(ctx, c)
	}
}

// chained is a result behind that of earlier plugins, if there were any.
func (c *call) chained(own *types100.Result) (any, error) {
	res := &types100.Result{}
	if c.conf.PrevResult != nil {
		var err error
		if res, err = cniresult.Parse(c.conf.CNIVersion, c.conf.PrevResult); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "prevResult", err.Error())
		}
	}
	before := len(res.Interfaces)
	res.Interfaces = slices.Concat(res.Interfaces, own.Interfaces)
	for _, ip := range own.IPs {
		ip = ip.Copy()
		if ip.Interface != nil {
			ip.Interface = types100.Int(*ip.Interface + before)
		}
		res.IPs = append(res.IPs, ip)
	}
	res.Routes = slices.Concat(res.Routes, own.Routes)
	if res.DNS.IsEmpty() {
		res.DNS = own.DNS
	}
	return meta.Result([]meta.Made{{Result: res}}, c.conf.CNIVersion)
}

var errNoIPAM = types.NewError(types.ErrInvalidNetworkConfig, "the configuration has no \"ipam\"", "")

// ipamCall is a call of the IPAM alone, by any main plugin.
func (s *Server) ipamCall(ctx context.Context, c *call) (any, error) {
	if c.conf.IPAM == nil {
		return nil, errNoIPAM
	}
	if err := failpoint.Hit("cni-ipam"); err != nil {
		return nil, err
	}
	boot, err := netns.BootID()
	if err != nil {
		return nil, err
	}
	owner := ipam.Owner{ContainerID: c.ContainerID, IfName: c.IfName, Via: ipamPlugin, BootID: boot, Network: c.conf.Name}
	if c.pod.Name != "" {
		owner.Pod = c.pod.Namespace + "/" + c.pod.Name
	}
	if c.Command == "ADD" {
		return s.claim(ctx, c, owner)
	}
	pool, err := ipam.NameOf(c.conf.IPAM)
	if err != nil && c.Command != "DEL" { // a DEL looks into all pools then: the pod must be able to end
		return nil, err
	}
	if c.Command == "GC" {
		return nil, s.collectClaims(ctx, c, pool)
	}
	claims, err := s.IPAM.Owned(ctx, pool, owner)
	switch {
	case err != nil:
	case c.Command == "DEL":
		err = s.IPAM.Release(ctx, claims)
	case len(claims) == 0:
		err = fmt.Errorf("pool %s: %s has no address", pool, owner)
	}
	return nil, err
}

func (s *Server) claim(ctx context.Context, c *call, owner ipam.Owner) (any, error) {
	requested, err := c.addresses()
	if err != nil {
		return nil, err
	}
	r, err := s.IPAM.Claim(ctx, ipam.Ask{Config: c.conf.IPAM, Network: c.conf.Name, ConfigName: c.conf.Name, Owner: owner, Requested: requested}, s.Engine)
	if err != nil {
		return nil, err
	}
	return cniresult.As(r.Result, c.conf.CNIVersion)
}

// addresses are those that the call asks for: by capability, else in args.cni, else in CNI_ARGS (CNI CONVENTIONS.md).
func (c *call) addresses() ([]ipam.Request, error) {
	raw := c.conf.RuntimeConfig["ips"]
	if raw == nil {
		raw = c.conf.Args.CNI["ips"]
	}
	var texts []string
	if raw != nil {
		if err := json.Unmarshal(raw, &texts); err != nil {
			return nil, ipam.Invalid("ips: %s", explain.JSON(raw, err))
		}
	} else if ip := c.args["IP"]; ip != "" {
		texts = strings.Split(ip, ",")
	}
	requested, err := ipam.ParseRequests(texts)
	if err != nil {
		return nil, fmt.Errorf("ips: %w", err)
	}
	return requested, nil
}

// collectClaims frees what plugins claimed under the network's name for containers that the runtime no
// longer knows. What we have a record of is not for a runtime's list to judge.
func (s *Server) collectClaims(ctx context.Context, c *call, pool string) error {
	claims, err := s.IPAM.NodeClaims(ctx, pool)
	if err != nil {
		return err
	}
	stale := slices.DeleteFunc(claims, func(cl ipam.Claim) bool {
		o := cl.Owner
		return o.Node != s.Engine.Node || o.Via == "" || o.Network != c.conf.Name || slices.Contains(c.valid(), types.GCAttachment{ContainerID: o.ContainerID, IfName: o.IfName}) ||
			s.Engine.Accounted(delegates.Owner{ContainerID: o.ContainerID, Interface: o.IfName})
	})
	if s.Engine.Rehearse {
		for _, cl := range stale {
			s.Log.Warn("the runtime no longer knows this address: gc.dryRun keeps it", "network", c.conf.Name, "pool", cl.Pool, "address", cl.Addr, "owner", cl.Owner)
		}
		return nil
	}
	return s.IPAM.Release(ctx, stale)
}
