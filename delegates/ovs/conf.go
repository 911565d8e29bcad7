package ovs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/explain"
)

// Type is the plugin type of the delegate. ForeignType is ovs-cni's, whose keys the delegate understands.
const (
	Type        = "patchbay-ovs"
	ForeignType = "ovs"
)

// Capabilities are those that the delegate honours even if a configuration does not declare them.
var Capabilities = []string{"ips", "mac", "bandwidth"}

// A conf is the delegate's configuration for one attachment.
type conf struct {
	Network          string                     `json:"network"`
	Bridge           string                     `json:"bridge"`
	VLAN             *int                       `json:"vlan"`
	Trunk            []trunk                    `json:"trunk"`
	MTU              int                        `json:"mtu"`
	MAC              string                     `json:"mac"`
	QoS              qosConf                    `json:"qos"`
	OfportRequest    *int                       `json:"ofport_request"`
	IsGateway        bool                       `json:"isGateway"`
	IsDefaultGateway bool                       `json:"isDefaultGateway"`
	IPAM             map[string]json.RawMessage `json:"ipam"`
	InterfaceType    string                     `json:"interface_type"`
	SocketFile       string                     `json:"socket_file"`
	Args             struct {
		CNI struct { // in upper or lower case, as for ovs-cni
			MAC     string `json:"mac"`
			OvnPort string `json:"ovnPort"`
		} `json:"cni"`
	} `json:"args"`

	hwaddr net.HardwareAddr
	trunks []int
}

type trunk struct {
	ID    *int `json:"id"`
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
}

type qosConf struct {
	IngressRate rate `json:"ingressRate"`
	EgressRate  rate `json:"egressRate"`
}

// parseConf reads and validates the configuration and what the pod asked for; args are the CNI_ARGS.
func parseConf(a *delegates.Attachment, args string) (*conf, error) {
	p := a.Config.Plugins[0]
	// What is made again was accepted before, by whatever rules there were.
	if a.Result == nil {
		if err := checkKeys(p); err != nil {
			return nil, err
		}
	}
	b, err := json.Marshal(p.Raw)
	if err != nil {
		return nil, err
	}
	c := &conf{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, refuse("%s", explain.JSON(b, err))
	}
	if p.Type == ForeignType && c.OfportRequest != nil && *c.OfportRequest == 0 {
		c.OfportRequest = nil // as ovs-cni reads it: none is asked for
	}
	c.request(a, args)
	if c.Network == "" && c.Bridge == "" && c.Args.CNI.OvnPort != "" {
		c.Bridge = integrationBridge
	}
	return c, c.validate()
}

// parseNetwork reads and validates a network's configuration, of which no pod has asked anything yet. One of
// ovs-cni's type may leave the bridge to pods that name an OvnPort.
func parseNetwork(list *cniconf.List) (*conf, error) {
	args := ""
	if list.Plugins[0].Type == ForeignType {
		args = "OvnPort=any"
	}
	return parseConf(&delegates.Attachment{Config: list}, args)
}

// request lets what the pod asked for override the configuration: args.cni first, then CNI_ARGS, then the
// capability arguments.
func (c *conf) request(a *delegates.Attachment, args string) {
	for pair := range strings.SplitSeq(args, ";") {
		k, v, _ := strings.Cut(pair, "=")
		switch {
		case strings.EqualFold(k, "MAC"):
			c.Args.CNI.MAC = v
		case strings.EqualFold(k, "OvnPort"):
			c.Args.CNI.OvnPort = v
		}
	}
	c.MAC = cmp.Or(a.Requests.MAC.String(), c.Args.CNI.MAC, c.MAC)
	if b := a.Requests.Bandwidth; b != nil {
		c.QoS.IngressRate = cmp.Or(rate(max(b.IngressRate, 0)), c.QoS.IngressRate)
		c.QoS.EgressRate = cmp.Or(rate(max(b.EgressRate, 0)), c.QoS.EgressRate)
	}
}

func (c *conf) validate() error {
	if (c.Network == "") == (c.Bridge == "") {
		return refuse("give either \"network\" (a bridge's role on the node, such as data) or \"bridge\" (its name)")
	}
	if len(c.IPAM) > 0 && c.IPAM["type"] == nil {
		return refuse("ipam: \"type\" is missing, such as patchbay-ipam")
	}
	if c.InterfaceType != "" && c.InterfaceType != "system" {
		return refuse("interface_type %q: the port is the host's end of a veth pair, whose type is system; leave the key out", c.InterfaceType)
	}
	if err := within("vlan", c.VLAN, 0, lastVLAN); err != nil {
		return err
	}
	var err error
	if c.trunks, err = trunks(c.Trunk); err != nil {
		return err
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		return refuse("mtu %d must be between 68 and 65535", c.MTU)
	}
	if err := within("ofport_request", c.OfportRequest, 1, 65279); err != nil {
		return err
	}
	if c.MAC != "" {
		if c.hwaddr, err = cniconf.HardwareAddr(c.MAC); err != nil {
			return refuse("mac: %s", err)
		}
	}
	return nil
}

// trunks are the IDs of all trunks, in order. There may be many trunks, of as many IDs: only where each begins and ends
// is noted.
func trunks(all []trunk) (ids []int, err error) {
	var begin, end [lastVLAN + 1]int
	for _, t := range all {
		first, last, err := t.ids()
		if err != nil {
			return nil, err
		}
		begin[first]++
		end[last]++
	}
	open := 0
	for id := range begin {
		if open += begin[id]; open > 0 {
			ids = append(ids, id)
		}
		open -= end[id]
	}
	return ids, nil
}

func (t trunk) ids() (first, last int, err error) {
	switch {
	case t.ID != nil && t.MinID == nil && t.MaxID == nil:
		return *t.ID, *t.ID, within("trunk id", t.ID, 0, lastVLAN)
	case t.ID != nil || t.MinID == nil || t.MaxID == nil:
		return 0, 0, refuse("a trunk has either \"id\" or both \"minID\" and \"maxID\"")
	case *t.MinID > *t.MaxID:
		return 0, 0, refuse("trunk minID %d is above maxID %d", *t.MinID, *t.MaxID)
	}
	return *t.MinID, *t.MaxID, cmp.Or(within("trunk minID", t.MinID, 0, lastVLAN), within("trunk maxID", t.MaxID, 0, lastVLAN))
}

// lastVLAN is the highest VLAN ID that Open vSwitch's database takes.
const lastVLAN = 4095

// within refuses a number that is given and not between low and high.
func within(key string, n *int, low, high int) error {
	if n != nil && (*n < low || *n > high) {
		return refuse("%s %d must be between %d and %d", key, *n, low, high)
	}
	return nil
}

// refuse returns CNI error 7: the configuration can't work.
func refuse(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, Type+": "+fmt.Sprintf(format, args...), "")
}

// A rate is in bit/s: a number, or a text such as 100M.
type rate uint64

func (r *rate) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	unit := uint64(1)
	for suffix, u := range map[string]uint64{"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9} {
		if t, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = t, u
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > 1e12/unit {
		return fmt.Errorf("qos: %s is not a rate in bits per second, such as \"100M\"", b)
	}
	*r = rate(n * unit)
	return nil
}

// Validate returns what in a configuration can't work on any node.
func Validate(list *cniconf.List) error {
	_, err := parseNetwork(list)
	return err
}
