package ovs

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/patchbay-cni/patchbay/delegates"
	"github.com/patchbay-cni/patchbay/internal/cniconf"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/test/bound"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// attachment has a configuration with these keys beside those that every one has.
func attachment(t *testing.T, more string) *delegates.Attachment {
	t.Helper()
	list, err := cniconf.Parse([]byte(`{"cniVersion":"1.0.0","name":"blue","type":"patchbay-ovs","network":"data"`+more+`}`), "")
	if err != nil {
		t.Fatal(err)
	}
	return &delegates.Attachment{Interface: "net1", Config: list}
}

func refused(t *testing.T, err error, want string) bool {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v instead of %q", err, want)
	}
	return err != nil
}

func TestRates(t *testing.T) {
	for text, c := range map[string]struct {
		bits uint64
		err  string
	}{
		`100`:       {100, ""},
		`"100"`:     {100, ""},
		`"64k"`:     {64e3, ""},
		`"64K"`:     {64e3, ""},
		`"100M"`:    {100e6, ""},
		`"10G"`:     {10e9, ""},
		`"1000G"`:   {1e12, ""},
		`"0"`:       {0, ""},
		`"1001G"`:   {0, "is not a rate"},
		`"100m"`:    {0, "is not a rate"},
		`"100MB"`:   {0, "is not a rate"},
		`"1.5M"`:    {0, "is not a rate"},
		`"-1"`:      {0, "is not a rate"},
		`"M"`:       {0, "is not a rate"},
		`""`:        {0, "is not a rate"},
		`100000000`: {100e6, ""},
	} {
		t.Run(text, func(t *testing.T) {
			c2, err := parseConf(attachment(t, `,"qos":{"ingressRate":`+text+`}`), "")
			if !refused(t, err, c.err) && uint64(c2.QoS.IngressRate) != c.bits {
				t.Errorf("%d bit/s", c2.QoS.IngressRate)
			}
		})
	}
}

// The runtime's bandwidth capability goes over the configuration, each direction by itself.
func TestBandwidthGoesOverTheConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		asked           delegates.Bandwidth
		ingress, egress rate
	}{
		"both directions": {delegates.Bandwidth{IngressRate: 5e6, EgressRate: 6e6}, 5e6, 6e6},
		"ingress alone":   {delegates.Bandwidth{IngressRate: 5e6}, 5e6, 20e6},
		"egress alone":    {delegates.Bandwidth{EgressRate: 6e6}, 10e6, 6e6},
		"neither":         {delegates.Bandwidth{}, 10e6, 20e6},
	} {
		t.Run(name, func(t *testing.T) {
			a := attachment(t, `,"qos":{"ingressRate":"10M","egressRate":"20M"}`)
			a.Requests.Bandwidth = &c.asked
			got, err := parseConf(a, "")
			if err != nil || got.QoS.IngressRate != c.ingress || got.QoS.EgressRate != c.egress {
				t.Errorf("%+v, %v", got.QoS, err)
			}
		})
	}
}

func TestVLANs(t *testing.T) {
	for name, c := range map[string]struct {
		keys   string
		tag    string // "": none
		trunks []int
		mode   string // "": as Open vSwitch has it
		err    string
	}{
		"none":                          {``, "", nil, "", ""},
		"one for untagged packets":      {`"vlan":100`, "100", nil, "access", ""},
		"priority-tagged":               {`"vlan":0`, "0", nil, "access", ""},
		"a trunk of one":                {`"trunk":[{"id":7}]`, "", []int{7}, "trunk", ""},
		"a range":                       {`"trunk":[{"minID":10,"maxID":13}]`, "", []int{10, 11, 12, 13}, "trunk", ""},
		"a range of one":                {`"trunk":[{"minID":10,"maxID":10}]`, "", []int{10}, "trunk", ""},
		"overlaps are said once":        {`"trunk":[{"minID":12,"maxID":14},{"id":13},{"id":2}]`, "", []int{2, 12, 13, 14}, "trunk", ""},
		"a trunk with a native VLAN":    {`"vlan":5,"trunk":[{"id":7}]`, "5", []int{7}, "native-untagged", ""},
		"the ends of what there is":     {`"trunk":[{"id":0},{"id":4095}]`, "", []int{0, 4095}, "trunk", ""},
		"a VLAN that can't be":          {`"vlan":4096`, "", nil, "", "vlan 4096 must be between 0 and 4095"},
		"a negative VLAN":               {`"vlan":-1`, "", nil, "", "vlan -1 must be between 0 and 4095"},
		"a trunk that can't be":         {`"trunk":[{"id":4096}]`, "", nil, "", "trunk id 4096"},
		"a range's start that can't be": {`"trunk":[{"minID":-1,"maxID":3}]`, "", nil, "", "trunk minID -1"},
		"a range's end that can't be":   {`"trunk":[{"minID":1,"maxID":5000}]`, "", nil, "", "trunk maxID 5000"},
		"a range turned around":         {`"trunk":[{"minID":9,"maxID":3}]`, "", nil, "", "minID 9 is above maxID 3"},
		"half a range":                  {`"trunk":[{"minID":9}]`, "", nil, "", "either \"id\" or both"},
		"a range and one":               {`"trunk":[{"id":1,"minID":9,"maxID":10}]`, "", nil, "", "either \"id\" or both"},
		"an empty trunk":                {`"trunk":[{}]`, "", nil, "", "either \"id\" or both"},
	} {
		t.Run(name, func(t *testing.T) {
			keys := c.keys
			if keys != "" {
				keys = "," + keys
			}
			got, err := parseConf(attachment(t, keys), "")
			if refused(t, err, c.err) {
				return
			}
			tag, mode := "", ""
			if got.VLAN != nil {
				tag = fmt.Sprint(*got.VLAN)
			}
			if m := vlanMode(got); m != nil {
				mode = *m
			}
			if tag != c.tag || !slices.Equal(got.trunks, c.trunks) || mode != c.mode {
				t.Errorf("tag %q, trunks %v, mode %q", tag, got.trunks, mode)
			}
		})
	}
}

// What a pod may send at once grows with its rate, from sixteen kilobytes up to a megabyte.
func TestBurstOfWhatAPodSends(t *testing.T) {
	testnode.Sh(t, "ip", "link", "add", "net1", "type", "veth", "peer", "name", "net1-far")
	t.Cleanup(func() { testnode.Sh(t, "ip", "link", "del", "net1") })
	l, err := link.Find("net1")
	if err != nil {
		t.Fatal(err)
	}
	for bits, burst := range map[uint64]uint64{8e6: 16 << 10, 100e6: 50000, 10e9: 1 << 20} {
		if err := limitEgress(l, bits); err != nil {
			t.Fatal(err)
		}
		queues, err := link.Queues(l)
		if err != nil || len(queues) != 1 {
			t.Fatalf("%v, %v", queues, err)
		}
		q := queues[0].(*netlink.Tbf)
		ticks := float64(burst) * float64(netlink.TickInUsec()) * 1e6 / float64(bits/8)
		if q.Rate != bits/8 || q.Buffer != uint32(ticks) || uint64(q.Limit) <= burst {
			t.Errorf("%d bit/s: %+v", bits, q)
		}
		if err := netlink.QdiscDel(q); err != nil {
			t.Fatal(err)
		}
	}
}

// A network may name as many trunks as fit into its configuration, and each of its pods has it read, again and again.
func TestManyTrunksAreReadInTime(t *testing.T) {
	const entry = `{"minID":0,"maxID":4094}`
	text := `{"cniVersion":"1.1.0","name":"a","type":"patchbay-ovs","network":"data","trunk":[` + strings.Repeat(entry+",", 256<<10/len(entry)-10) + entry + `]}`
	list, err := cniconf.Parse([]byte(text), "a")
	if err != nil {
		t.Fatal(err)
	}
	bound.Check(t, func() {
		for range 10 {
			if err := Validate(list); err != nil {
				t.Error(err)
			}
		}
	})
}
