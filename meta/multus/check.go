package multus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/meta"
)

// A Grade says how something fares after the switch.
type Grade string

// The grades.
const (
	Works   Grade = "works"
	Changes Grade = "changes" // works in another way; the message says how
	Fails   Grade = "fails"
)

// A Finding is about one object.
type Finding struct {
	Object  string `json:"object"`
	Grade   Grade  `json:"grade"`
	Message string `json:"message"`
}

// native are the plugin types that need no plugin.
var native = []string{"patchbay-ovs", "ovs"}

// ovsKeys are keys of ovs-cni that mean something else here, or nothing.
var ovsKeys = map[string]string{
	"socket_file":               "it must name the daemon's own connection, ovs.db: another one is refused",
	"link_state_check_retries":  "it has no effect: the port is waited for by an event",
	"link_state_check_interval": "it has no effect: the port is waited for by an event",
}

// CheckConfig judges a configuration of Multus.
func CheckConfig(object string, b []byte) []Finding {
	c, notes, err := Parse(b)
	if err == nil {
		_, err = c.Over(meta.Config{})
	}
	if err != nil {
		return []Finding{{object, Fails, err.Error()}}
	}
	findings := []Finding{{object, Works, "is read as it is"}}
	if !c.Isolation() {
		findings = append(findings, Finding{object, Works, "namespaceIsolation is off, as in Multus; Patchbay's own default is on"})
	}
	for _, n := range notes {
		findings = append(findings, Finding{object, Changes, n})
	}
	return findings
}

// CheckNetwork judges a NetworkAttachmentDefinition. validate says why delegates and IPAM would refuse its
// configuration.
func CheckNetwork(n meta.Network, validate func(meta.Network) error) []Finding {
	object := "network " + n.Namespace + "/" + n.Name
	if strings.TrimSpace(n.Config) == "" {
		return []Finding{{object, Works, "its configuration is on the nodes' disks, under that name"}}
	}
	list, err := cniconf.Parse([]byte(n.Config), n.Name)
	if err != nil {
		return []Finding{{object, Fails, err.Error()}}
	}
	if slices.ContainsFunc(list.Types(), cniconf.IsMeta) {
		return []Finding{{object, Fails, "leads back to a meta-plugin"}}
	}
	var executed, own []string
	findings := []Finding{}
	if err := validate(n); err != nil {
		findings = append(findings, Finding{object, Fails, err.Error()})
	}
	for _, p := range list.Plugins {
		if slices.Contains(native, p.Type) {
			own = append(own, p.Type)
			for _, k := range slices.Sorted(maps.Keys(p.Raw)) {
				if why, has := ovsKeys[k]; has {
					findings = append(findings, Finding{object, Changes, k + ": " + why})
				}
			}
		} else {
			executed = append(executed, p.Type)
		}
		if p.IPAMType != "" && p.IPAMType != "patchbay-ipam" {
			executed = append(executed, p.IPAMType)
		}
	}
	message := []string{}
	if len(own) > 0 {
		message = append(message, strings.Join(own, ", ")+" is made by the daemon itself")
	}
	if len(executed) > 0 {
		slices.Sort(executed)
		message = append(message, "executes "+strings.Join(slices.Compact(executed), ", ")+": needs the overlay with exec delegates")
	}
	if list.Name != n.Name {
		findings = append(findings, Finding{object, Works, "its configuration has another name, " + list.Name})
	}
	return append([]Finding{{object, Works, strings.Join(message, "; ")}}, findings...)
}

// Seen are the networks as far as they can be seen from outside the nodes: one whose configuration is on
// the nodes' disks is there, but what it is can't be known.
type Seen struct{ meta.Networks }

// Network implements meta.Networks.
func (s Seen) Network(ctx context.Context, namespace, name string) (*meta.Network, error) {
	n, err := s.Networks.Network(ctx, namespace, name)
	if err != nil || strings.TrimSpace(n.Config) != "" {
		return n, err
	}
	there := *n
	there.Config = `{"cniVersion": "1.0.0", "type": "` + onDisk + `", "capabilities":
		{"ips": true, "mac": true, "infinibandGUID": true, "portMappings": true, "bandwidth": true, "deviceID": true}}`
	return &there, nil
}

// onDisk stands for the plugin type of such a network.
const onDisk = "on-the-nodes-disks"

// CheckPod judges a pod by planning it: planner knows the networks, the devices and the configuration.
func CheckPod(ctx context.Context, planner *meta.Planner, p meta.Pod) []Finding {
	object := "pod " + p.Namespace + "/" + p.Name
	wanted, err := planner.Plan(ctx, p, "eth0", nil)
	if err != nil {
		return []Finding{{object, Fails, err.Error()}}
	}
	if len(wanted) == 0 {
		return nil
	}
	findings := []Finding{{object, Works, fmt.Sprintf("%d networks", len(wanted))}}
	for _, w := range wanted {
		findings = append(findings, checkRequests(object, w)...)
		if slices.Contains(w.Config.Types(), onDisk) {
			findings = append(findings, Finding{object, Works, "network " + w.Network + " is on the nodes' disks and was not tried"})
		}
	}
	return findings
}
