package api

import (
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
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/ipam"
	"github.com/patchbay-cni/patchbay/meta"
)

// registerState registers what only shows.
func (s *server) registerState(api huma.API, op func(id, method, path, summary string, status int) huma.Operation) {
	show(api, op("sandboxes", http.MethodGet, "/v1/sandboxes", "The sandboxes of the node", http.StatusOK), s.sandboxes)
	show(api, op("nodes", http.MethodGet, "/v1/nodes", "The nodes", http.StatusOK), s.nodes)
	show(api, op("pools", http.MethodGet, "/v1/pools", "The address pools", http.StatusOK), s.pools)
	show(api, op("networks", http.MethodGet, "/v1/networks", "The networks that the node knows", http.StatusOK), s.networks)
	show(api, op("version", http.MethodGet, "/v1/version", "The daemon's version", http.StatusOK),
		func(context.Context) (client.Version, error) {
			return client.Version{Version: s.Version, CNIVersions: cniwire.SupportedVersions}, nil
		})
	show(api, op("doctor", http.MethodGet, "/v1/doctor", "The node, examined", http.StatusOK),
		func(ctx context.Context) ([]client.Finding, error) { return s.Doctor(ctx), nil })
	show(api, op("leaks", http.MethodGet, "/v1/leaks", "Claims without an owner, owners without a claim", http.StatusOK), s.leaks)
	huma.Register(api, op("release", http.MethodDelete, "/v1/pools/{pool}/claims/{ip}", "Free a leaked address", http.StatusNoContent),
		func(ctx context.Context, in *struct {
			Pool string `path:"pool"`
			IP   string `path:"ip"`
		}) (*struct{}, error) {
			return nil, problem(s.releaseClaim(ctx, in.Pool, in.IP))
		})
	huma.Register(api, op("removePool", http.MethodDelete, "/v1/pools/{pool}", "Remove a pool of which no address is in use", http.StatusNoContent),
		func(ctx context.Context, in *struct {
			Pool string `path:"pool"`
		}) (*struct{}, error) {
			err := s.IPAM.RemovePool(ctx, in.Pool)
			s.audit("remove pool "+in.Pool, PodPath{}, "", "", err)
			return nil, problem(err)
		})
	show(api, op("leftovers", http.MethodGet, "/v1/leftovers", "What is there without a record, or was given up", http.StatusOK), s.leftovers)
	huma.Register(api, op("removeLeftover", http.MethodDelete, "/v1/leftovers/{kind}/{id}", "Remove a leftover", http.StatusNoContent),
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
	all := []client.Leftover{}
	kept := s.Engine.Kept()
	for _, name := range l.Ports {
		v := client.Leftover{Kind: attach.LeftoverPort, ID: name, Node: s.Engine.Node, Message: "a port or link without a record"}
		if slices.Contains(kept, name) {
			v.Kept, v.Message = true, "a port without a record, as etcd has lost records: a running pod uses it"
		}
		all = append(all, v)
	}
	for _, c := range l.Claims {
		all = append(all, client.Leftover{Kind: attach.LeftoverAddress, ID: c.Pool + "/" + c.Addr.String(), Node: s.Engine.Node, Pod: c.Owner.Pod, Message: "claimed by " + c.Owner.String() + ", which is not there"})
	}
	for _, a := range l.Abandoned {
		all = append(all, client.Leftover{Kind: attach.LeftoverAttachment, ID: a.Sandbox.ContainerID + "/" + a.Attachment.Spec.Interface, Node: s.Engine.Node,
			Pod: a.Sandbox.Namespace + "/" + a.Sandbox.Pod, Message: a.String()})
	}
	return all, err
}

func show[T any](api huma.API, op huma.Operation, get func(context.Context) (T, error)) {
	huma.Register(api, op, func(ctx context.Context, _ *struct{}) (*body[T], error) {
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
	all := []client.Node{}
	for _, n := range nodes {
		all = append(all, client.Node{Node: n.Node, BootID: n.BootID, Version: n.Version, Bridges: n.Bridges})
	}
	return all, err
}

func (s *server) pools(ctx context.Context) ([]client.Pool, error) {
	pools, err := s.IPAM.Pools(ctx)
	all := []client.Pool{}
	for _, p := range pools {
		all = append(all, client.Pool{Name: p.Name, Spec: p.Spec, Subnets: p.Subnets, Claims: claims(p.Claims)})
	}
	return all, err
}

func (s *server) networks(context.Context) ([]client.Network, error) {
	all := []client.Network{}
	for _, n := range s.Networks() {
		v := client.Network{Namespace: n.Namespace, Name: n.Name, Types: []string{}}
		if list, err := cniconf.Parse([]byte(n.Config), n.Name); err == nil {
			v.Types = list.Types()
			if list.Name != n.Name { // multi-network specification 3.4.2: they should be the same
				v.Message = "its configuration is named " + list.Name
			}
		} else {
			v.Message = err.Error()
		}
		all = append(all, v)
	}
	return all, nil
}

func (s *server) leaks(ctx context.Context) (client.Leak, error) {
	l, err := s.Engine.Inspect(ctx)
	return client.Leak{Claims: claims(l.Claims), Unclaimed: claims(l.Unclaimed)}, err
}

func (s *server) releaseClaim(ctx context.Context, pool, ip string) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ipam.Invalid("%q is not an address, such as 10.12.0.9", ip)
	}
	err = s.Engine.ReleaseClaim(ctx, pool, addr)
	s.audit("release "+pool+"/"+ip, PodPath{}, "", "", err)
	return err
}

func claims(cs []ipam.Claim) []client.Claim {
	all := []client.Claim{}
	for _, c := range cs {
		all = append(all, client.Claim{Pool: c.Pool, IP: c.Addr.String(), Node: c.Owner.Node, ContainerID: c.Owner.ContainerID, Interface: c.Owner.IfName, Pod: c.Owner.Pod})
	}
	return all
}

func views(sb *attach.Sandbox) []client.Attachment {
	all := []client.Attachment{}
	for _, a := range sb.Attachments {
		all = append(all, view(sb, a))
	}
	return all
}

// sources are the records' words as the API says them.
var sources = map[meta.Source]string{meta.SourceCluster: "cluster", meta.SourceDefault: "default", meta.SourceAnnotation: "annotation", meta.SourceAPI: "api"}

func view(sb *attach.Sandbox, a attach.Attachment) client.Attachment {
	v := client.Attachment{Namespace: sb.Namespace, Pod: sb.Pod, Interface: a.Spec.Interface, Network: a.Spec.Network, Node: sb.Node,
		Phase: string(a.Status.Phase), Bridge: a.Status.Bridge, Port: a.Status.Port, CreatedAt: a.Status.CreatedAt, Message: a.Status.Message}
	if v.Source = sources[a.Spec.Source]; v.Source == "" {
		v.Source = string(a.Spec.Source)
	}
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
