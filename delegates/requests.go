package delegates

import (
	"cmp"
	"encoding/json"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/patchbay-cni/patchbay/internal/explain"
	"github.com/patchbay-cni/patchbay/ipam"
)

// Requests are what a pod asks of an attachment beyond its network's configuration: the capability
// arguments of CNI CONVENTIONS.md. Their JSON is the "runtimeConfig" of those conventions, for plugins that are
// executed and for records.
type Requests struct {
	IPs       []ipam.Request
	MAC       net.HardwareAddr
	Bandwidth *Bandwidth
	// Others are arguments that only executed plugins read, by the names of their capabilities.
	Others map[string]any
}

// A Bandwidth limits an attachment (multi-network specification 4.1.2.1.8): rates in bit/s, bursts in
// bits, as seen from the pod.
type Bandwidth struct {
	IngressRate  int `json:"ingressRate,omitempty"`
	IngressBurst int `json:"ingressBurst,omitempty"`
	EgressRate   int `json:"egressRate,omitempty"`
	EgressBurst  int `json:"egressBurst,omitempty"`
}

// ParseRequests reads capability arguments. An address that can't be read is refused: it becomes a part
// of CNI_ARGS, where a semicolon begins another argument.
func ParseRequests(args map[string]json.RawMessage) (Requests, error) {
	r := Requests{Others: map[string]any{}}
	for name, raw := range args {
		var err error
		switch name {
		case "ips":
			var texts []string
			if err = json.Unmarshal(raw, &texts); err == nil {
				r.IPs, err = ipam.ParseRequests(texts)
			}
		case "mac":
			var text string
			if err = json.Unmarshal(raw, &text); err == nil && text != "" {
				if r.MAC, err = net.ParseMAC(text); err != nil {
					return r, ipam.Invalid("capability mac: %q is not a hardware address, such as 02:00:00:00:00:01", text)
				}
			}
		case "bandwidth":
			err = json.Unmarshal(raw, &r.Bandwidth)
			if explain.Strict(raw, &Bandwidth{}) != nil { // it has more, which a plugin may know
				r.Others[name] = raw
			}
		default:
			r.Others[name] = raw
		}
		if err != nil {
			return r, ipam.Invalid("capability %s: %s", name, explain.JSON(raw, err))
		}
	}
	return r, nil
}

// Arguments returns the requests as capability arguments, by name.
func (r Requests) Arguments() map[string]any {
	args := map[string]any{}
	maps.Copy(args, r.Others)
	if len(r.IPs) > 0 {
		args["ips"] = r.addresses()
	}
	if len(r.MAC) > 0 {
		args["mac"] = r.MAC.String()
	}
	if r.Bandwidth != nil && args["bandwidth"] == nil {
		args["bandwidth"] = r.Bandwidth
	}
	return args
}

// With returns the requests and those of the capability arguments that are not among them yet.
func (r Requests) With(args map[string]json.RawMessage) (Requests, error) {
	have, more := r.Arguments(), map[string]json.RawMessage{}
	for name, raw := range args {
		if _, asked := have[name]; !asked {
			more[name] = raw
		}
	}
	added, err := ParseRequests(more)
	// Of each pair, one at most is not empty.
	r.IPs = slices.Concat(r.IPs, added.IPs)
	r.MAC = slices.Concat(r.MAC, added.MAC)
	r.Bandwidth = cmp.Or(r.Bandwidth, added.Bandwidth)
	maps.Copy(added.Others, r.Others)
	r.Others = added.Others
	return r, err
}

func (r Requests) addresses() []string {
	var texts []string
	for _, ip := range r.IPs {
		texts = append(texts, ip.String())
	}
	return texts
}

// IsZero reports whether nothing is requested.
func (r Requests) IsZero() bool { return len(r.Arguments()) == 0 }

// MarshalJSON returns the capability arguments.
func (r Requests) MarshalJSON() ([]byte, error) { return json.Marshal(r.Arguments()) }

// UnmarshalJSON reads what MarshalJSON gives. It refuses nothing that was once recorded: if an argument can't be
// read, all are kept as they are.
func (r *Requests) UnmarshalJSON(b []byte) error {
	var args map[string]json.RawMessage
	if err := json.Unmarshal(b, &args); err != nil {
		return err
	}
	var err error
	if *r, err = ParseRequests(args); err != nil {
		*r = Requests{Others: map[string]any{}}
		for name, raw := range args {
			r.Others[name] = raw
		}
	}
	return nil
}

// CNIArgs returns the sandbox's CNI_ARGS with the requested addresses, as plugins read them there (CNI
// CONVENTIONS.md): IP=10.1.1.21/24,fd00::21/64;MAC=02:00:00:00:00:01. IgnoreUnknown is for plugins that don't
// know what is added.
func CNIArgs(s Sandbox, a *Attachment) string {
	args := []string{s.Args}
	if len(a.Requests.IPs) > 0 {
		args = append(args, "IP="+strings.Join(a.Requests.addresses(), ","))
	}
	if len(a.Requests.MAC) > 0 {
		args = append(args, "MAC="+a.Requests.MAC.String())
	}
	if len(args) == 1 {
		return s.Args
	}
	if !strings.Contains(";"+s.Args, ";IgnoreUnknown=") {
		args = slices.Insert(args, 0, "IgnoreUnknown=1")
	}
	return strings.Trim(strings.Join(args, ";"), ";")
}
