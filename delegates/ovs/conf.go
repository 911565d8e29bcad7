package ovs

import (
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

// Type is the plugin type of the delegate, ForeignType the one of ovs-cni, whose keys it
// understands.
const (
	Type        = "patchbay-ovs"
	ForeignType = "ovs"
)

// Capabilities are what the delegate honours whether a configuration declares it or not.
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
		CNI struct { // found in any case, as ovs-cni finds them
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

// parseConf reads and validates the configuration and what the pod asked for, args of which are the
// CNI_ARGS.
func parseConf(a *delegates.Attachment, args string) (*conf, error) {
	p := a.Config.Plugins[0]
	// What was made before is made again as it was: its keys have been accepted once.
	if a.Result == nil {
		if err := checkKeys(p); err != nil {
			return nil, err
		}
	}
	c, err := readConf(p)
	if err != nil {
		return nil, err
	}
	c.request(a, args)
	if c.Network == "" && c.Bridge == "" && c.Args.CNI.OvnPort != "" {
		c.Bridge = integrationBridge
	}
	return c, c.validate()
}

// parseNetwork reads and validates a network's configuration as far as no pod is to say anything.
func parseNetwork(list *cniconf.List) (*conf, error) {
	p := list.Plugins[0]
	if err := checkKeys(p); err != nil {
		return nil, err
	}
	c, err := readConf(p)
	if err != nil {
		return nil, err
	}
	if p.Type == ForeignType && c.Network == "" && c.Bridge == "" {
		c.Bridge = integrationBridge // for pods that name their OvnPort
	}
	return c, c.validate()
}

func readConf(p cniconf.Plugin) (*conf, error) {
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
	return c, nil
}

// request puts what the pod asked for over the configuration: args.cni, over it CNI_ARGS, over that
// the capability arguments.
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
	if c.Args.CNI.MAC != "" {
		c.MAC = c.Args.CNI.MAC
	}
	if mac := a.Requests.MAC; len(mac) > 0 {
		c.MAC = mac.String()
	}
	if b := a.Requests.Bandwidth; b != nil {
		if b.IngressRate > 0 {
			c.QoS.IngressRate = rate(b.IngressRate)
		}
		if b.EgressRate > 0 {
			c.QoS.EgressRate = rate(b.EgressRate)
		}
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
	if c.VLAN != nil {
		if err := vlanID("vlan", *c.VLAN); err != nil {
			return err
		}
	}
	var in [4096]bool
	for _, t := range c.Trunk {
		first, last, err := t.ids()
		if err != nil {
			return err
		}
		for id := first; id <= last; id++ {
			in[id] = true
		}
	}
	for id, is := range in {
		if is {
			c.trunks = append(c.trunks, id)
		}
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		return refuse("mtu %d must be between 68 and 65535", c.MTU)
	}
	if c.OfportRequest != nil && (*c.OfportRequest < 1 || *c.OfportRequest > 65279) {
		return refuse("ofport_request %d must be between 1 and 65279", *c.OfportRequest)
	}
	if c.MAC != "" {
		var err error
		if c.hwaddr, err = cniconf.HardwareAddr(c.MAC); err != nil {
			return refuse("mac: %s", err)
		}
	}
	return nil
}

func (t trunk) ids() (first, last int, err error) {
	switch {
	case t.ID != nil && t.MinID == nil && t.MaxID == nil:
		return *t.ID, *t.ID, vlanID("trunk id", *t.ID)
	case t.ID == nil && t.MinID != nil && t.MaxID != nil:
		if err := vlanID("trunk minID", *t.MinID); err != nil {
			return 0, 0, err
		}
		if err := vlanID("trunk maxID", *t.MaxID); err != nil {
			return 0, 0, err
		}
		if *t.MinID > *t.MaxID {
			return 0, 0, refuse("trunk minID %d is above maxID %d", *t.MinID, *t.MaxID)
		}
		return *t.MinID, *t.MaxID, nil
	}
	return 0, 0, refuse("a trunk has either \"id\" or both \"minID\" and \"maxID\"")
}

func vlanID(field string, id int) error {
	if id < 0 || id > 4095 {
		return refuse("%s %d must be between 0 and 4095", field, id)
	}
	return nil
}

// refuse is CNI error 7: the configuration can't work.
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

// Validate reports what in a configuration can never work; whether the node has the bridge is not
// asked.
func Validate(list *cniconf.List) error {
	_, err := parseNetwork(list)
	return err
}
