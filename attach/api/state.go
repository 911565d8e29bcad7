package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/patchbay-cni/patchbay/attach"
	"github.com/patchbay-cni/patchbay/attach/client"
	"github.com/patchbay-cni/patchbay/attach/store"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// These are answered before the daemon serves, too.
const (
	RecoveryPath = "/v1/recovery"
	DoctorPath   = "/v1/doctor"
)

// registerState registers what shows the node, and what mends its addresses and leftovers.
func (s *server) registerState(api huma.API) {
	show(api, "sandboxes", "/v1/sandboxes", "The sandboxes of the node", s.sandboxes)
	show(api, "nodes", "/v1/nodes", "The nodes", s.nodes)
	huma.Register(api, op("pools", http.MethodGet, "/v1/pools", "The address pools, with at most 10,000 claims in one answer"),
		func(ctx context.Context, in *struct {
			Pool     string `query:"pool" doc:"this pool only"`
			Continue string `query:"continue" doc:"of the pool: the claims after those of the answer that had this"`
		}) (*body[[]client.Pool], error) {
			pools, err := s.pools(ctx, ipam.Page{Pool: in.Pool, After: in.Continue, Limit: maxClaims})
			return &body[[]client.Pool]{pools}, problem(err)
		})
	show(api, "networks", "/v1/networks", "The networks that the node knows", s.networks)
	show(api, "version", "/v1/version", "The daemon's version", func(context.Context) (client.Version, error) {
		return client.Version{Version: s.Version, CNIVersions: cniwire.SupportedVersions}, nil
	})
	show(api, "doctor", DoctorPath, "The node, examined", func(ctx context.Context) ([]client.Finding, error) { return s.Doctor(ctx), nil })
	show(api, "leaks", "/v1/leaks", "Claims without an owner, owners without a claim", s.leaks)
	show(api, "leftovers", "/v1/leftovers", "What is there without a record, or was given up", s.leftovers)
	show(api, "recovery", RecoveryPath, "What the node's etcd is, and what would be written back to it", s.Recovery)
	huma.Register(api, op("recover", http.MethodPost, RecoveryPath, "Decide what is right after etcd has lost records"),
		func(ctx context.Context, in *body[client.RecoverRequest]) (*body[*client.Recovery], error) {
			r, err := s.Recover(ctx, in.Body.From)
			s.audit("recover from "+in.Body.From, PodPath{}, "", "", err)
			return &body[*client.Recovery]{r}, problem(err)
		})
	huma.Register(api, op("release", http.MethodDelete, "/v1/pools/{pool}/claims/{ip}", "Free a leaked address"),
		func(ctx context.Context, in *struct {
			Pool  string `path:"pool"`
			IP    string `path:"ip"`
			Force bool   `query:"force" doc:"free it although its owner may be there: a plugin claimed it under a runtime without Patchbay"`
		}) (*struct{}, error) {
			addr, err := netip.ParseAddr(in.IP)
			if err != nil {
				return nil, problem(ipam.Invalid("%q is not an address, such as 10.12.0.9", in.IP))
			}
			release := s.Engine.ReleaseClaim
			if in.Force {
				release = s.Engine.ForceReleaseClaim
			}
			err = release(ctx, in.Pool, addr)
			s.audit("release "+in.Pool+"/"+in.IP, PodPath{}, "", "", err)
			return nil, problem(err)
		})
	huma.Register(api, op("removePool", http.MethodDelete, "/v1/pools/{pool}", "Remove a pool of which no address is in use"),
		func(ctx context.Context, in *struct {
			Pool string `path:"pool"`
		}) (*struct{}, error) {
			err := s.IPAM.RemovePool(ctx, in.Pool)
			s.audit("remove pool "+in.Pool, PodPath{}, "", "", err)
			return nil, problem(err)
		})
	huma.Register(api, op("giveBackSubnet", http.MethodDelete, "/v1/pools/{pool}/subnets/{cidr}", "Take a subnet from a node that is gone"),
		func(ctx context.Context, in *struct {
			Pool  string `path:"pool"`
			CIDR  string `path:"cidr" doc:"the slash escaped as %2F"`
			Force bool   `query:"force" doc:"give up the addresses of it that are in use"`
		}) (*struct{}, error) {
			subnet, err := netip.ParsePrefix(in.CIDR)
			if err != nil {
				return nil, problem(ipam.Invalid("%q is not a subnet, such as 10.12.3.0/24", in.CIDR))
			}
			giveBack := s.IPAM.GiveBack
			if in.Force {
				giveBack = s.IPAM.ForceBack
			}
			err = giveBack(ctx, in.Pool, subnet)
			s.audit("give back "+in.Pool+"/"+in.CIDR, PodPath{}, "", "", err)
			return nil, problem(err)
		})
	huma.Register(api, op("removeLeftover", http.MethodDelete, "/v1/leftovers/{kind}/{id}", "Remove a leftover"),
		func(ctx context.Context, in *struct {
			Kind string `path:"kind" doc:"port, address or attachment"`
			ID   string `path:"id" doc:"a port's name; pool/ip; containerID/interface; the slash escaped as %2F"`
		}) (*struct{}, error) {
			unmade, err := s.Engine.RemoveLeftover(ctx, in.Kind, in.ID)
			s.audit("remove leftover "+in.Kind+"/"+in.ID, PodPath{}, "", "", errors.Join(err, discarded(unmade)))
			return nil, problem(err)
		})
}

func (s *server) leftovers(ctx context.Context) ([]client.Leftover, error) {
	l, err := s.Engine.Inspect(ctx)
	kept, node := s.Engine.Kept(), s.Engine.Node
	all := each(l.Ports, func(name string) client.Leftover {
		v := client.Leftover{Kind: attach.LeftoverPort, ID: name, Node: node, Message: "a port or link without a record"}
		if slices.Contains(kept, name) {
			v.Kept, v.Message = true, "a port without a record, as etcd has lost records: a running pod uses it"
		}
		return v
	})
	for _, c := range l.Claims {
		all = append(all, client.Leftover{Kind: attach.LeftoverAddress, ID: c.Pool + "/" + c.Addr.String(), Node: node, Pod: c.Owner.Pod,
			Message: "claimed by " + c.Owner.String() + ", which is not there"})
	}
	for _, a := range l.Abandoned {
		all = append(all, client.Leftover{Kind: attach.LeftoverAttachment, ID: a.Sandbox.ContainerID + "/" + a.Attachment.Spec.Interface, Node: node,
			Pod: a.Sandbox.Namespace + "/" + a.Sandbox.Pod, Message: a.String()})
	}
	return all, err
}

// each returns what of makes of each value; an empty list rather than nil, which would be null in JSON.
func each[T, U any](all []T, of func(T) U) []U {
	made := make([]U, len(all))
	for i, v := range all {
		made[i] = of(v)
	}
	return made
}

func show[T any](api huma.API, id, path, summary string, get func(context.Context) (T, error)) {
	huma.Register(api, op(id, http.MethodGet, path, summary), func(ctx context.Context, _ *struct{}) (*body[T], error) {
		v, err := get(ctx)
		return &body[T]{v}, problem(err)
	})
}

func (s *server) sandboxes(context.Context) ([]client.Sandbox, error) {
	all := []client.Sandbox{}
	for _, sb := range s.Engine.Running() {
		status, err := json.Marshal(meta.Status(sb.Made()))
		if err != nil {
			return nil, err
		}
		all = append(all, client.Sandbox{Node: sb.Node, ContainerID: sb.ContainerID, Namespace: sb.Namespace, Pod: sb.Pod, UID: sb.UID, Netns: sb.Netns,
			NetnsCookie: sb.NetnsCookie, CreatedAt: sb.CreatedAt, Ending: sb.Ending, Attachments: views(sb), NetworkStatus: status})
	}
	slices.SortFunc(all, func(a, b client.Sandbox) int {
		return slices.Compare([]string{a.Namespace, a.Pod, a.ContainerID}, []string{b.Namespace, b.Pod, b.ContainerID})
	})
	return all, nil
}

func (s *server) nodes(ctx context.Context) ([]client.Node, error) {
	nodes, err := s.Nodes(ctx)
	return each(nodes, func(n store.Node) client.Node {
		return client.Node{Node: n.Node, BootID: n.BootID, Version: n.Version, Bridges: n.Bridges}
	}), err
}

// maxClaims is how many claims are in one answer.
const maxClaims = 10_000

func (s *server) pools(ctx context.Context, page ipam.Page) ([]client.Pool, error) {
	if page.After != "" && page.Pool == "" {
		return nil, ipam.Invalid("continue goes with the pool whose claims are to follow")
	}
	pools, err := s.IPAM.Pools(ctx, page)
	return each(pools, func(p ipam.PoolInfo) client.Pool {
		return client.Pool{Name: p.Name, Spec: p.Spec, Subnets: p.Subnets, Claims: each(p.Claims, claim), Continue: p.Continue}
	}), err
}

func (s *server) networks(context.Context) ([]client.Network, error) {
	return each(s.Networks(), func(n meta.Network) client.Network {
		v := client.Network{Namespace: n.Namespace, Name: n.Name, Types: []string{}}
		list, err := cniconf.Parse([]byte(n.Config), n.Name)
		if err != nil {
			v.Message = err.Error()
			return v
		}
		v.Types = list.Types()
		if list.Name != n.Name { // multi-network specification 3.4.2: they should be the same
			v.Message = "its configuration is named " + list.Name
		}
		return v
	}), nil
}

func (s *server) leaks(ctx context.Context) (client.Leak, error) {
	l, err := s.Engine.Inspect(ctx)
	return client.Leak{Claims: each(l.Claims, claim), Unclaimed: each(l.Unclaimed, claim)}, err
}

func claim(c ipam.Claim) client.Claim {
	return client.Claim{Pool: c.Pool, IP: c.Addr.String(), Node: c.Owner.Node, ContainerID: c.Owner.ContainerID, Interface: c.Owner.IfName, Pod: c.Owner.Pod}
}

func views(sb *attach.Sandbox) []client.Attachment {
	return each(sb.Attachments, func(a attach.Attachment) client.Attachment { return view(sb, a) })
}

// sources are the records' words as the API says them.
var sources = map[meta.Source]string{meta.SourceCluster: "cluster", meta.SourceDefault: "default", meta.SourceAnnotation: "annotation", meta.SourceAPI: "api"}

func view(sb *attach.Sandbox, a attach.Attachment) client.Attachment {
	v := client.Attachment{Namespace: sb.Namespace, Pod: sb.Pod, Interface: a.Spec.Interface, Network: a.Spec.Network, Node: sb.Node,
		Phase: string(a.Status.Phase), Bridge: a.Status.Bridge, Port: a.Status.Port, CreatedAt: a.Status.CreatedAt, Message: a.Status.Message}
	v.Source = cmp.Or(sources[a.Spec.Source], string(a.Spec.Source))
	res := a.Status.Result
	if res == nil {
		return v
	}
	for _, i := range res.Interfaces {
		if i.Sandbox != "" && v.MAC == "" {
			v.MAC = strings.ToLower(i.Mac)
		}
	}
	for _, ip := range res.IPs {
		v.IPs = append(v.IPs, ip.Address.String())
		if ip.Gateway != nil {
			v.Gateway = append(v.Gateway, ip.Gateway.String())
		}
	}
	for _, r := range res.Routes {
		route := client.Route{Dst: r.Dst.String()}
		if r.GW != nil {
			route.GW = r.GW.String()
		}
		v.Routes = append(v.Routes, route)
	}
	return v
}
