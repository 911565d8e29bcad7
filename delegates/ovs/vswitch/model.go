package vswitch

import (
	"context"

	"github.com/go-logr/logr"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
)

// SandboxKey is the key of external_ids that marks the port of a pod; its value is the container ID.
const SandboxKey = "patchbay-sandbox"

// The types of rows have those columns that are read or written; see ovs-vswitchd.conf.db(5).

// OpenVSwitch is the root. Its table has one row.
type OpenVSwitch struct {
	UUID    string   `ovsdb:"_uuid"`
	Bridges []string `ovsdb:"bridges"`
	NextCfg int      `ovsdb:"next_cfg"`
	CurCfg  int      `ovsdb:"cur_cfg"`
}

// A Bridge is a row of the table of that name, as are the others.
type Bridge struct {
	UUID         string            `ovsdb:"_uuid"`
	Name         string            `ovsdb:"name"`
	Ports        []string          `ovsdb:"ports"`
	DatapathType string            `ovsdb:"datapath_type"`
	FailMode     *string           `ovsdb:"fail_mode"`
	Protocols    []string          `ovsdb:"protocols"`
	Controller   []string          `ovsdb:"controller"`
	ExternalIDs  map[string]string `ovsdb:"external_ids"`
}

// A Port belongs to a bridge.
type Port struct {
	UUID        string            `ovsdb:"_uuid"`
	Name        string            `ovsdb:"name"`
	Interfaces  []string          `ovsdb:"interfaces"`
	Tag         *int              `ovsdb:"tag"`
	Trunks      []int             `ovsdb:"trunks"`
	VLANMode    *string           `ovsdb:"vlan_mode"`
	QoS         *string           `ovsdb:"qos"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

// An Interface belongs to a port.
type Interface struct {
	UUID          string            `ovsdb:"_uuid"`
	Name          string            `ovsdb:"name"`
	Type          string            `ovsdb:"type"`
	Ofport        *int              `ovsdb:"ofport"`
	OfportRequest *int              `ovsdb:"ofport_request"`
	Error         *string           `ovsdb:"error"`
	ExternalIDs   map[string]string `ovsdb:"external_ids"`
}

// Failed reports whether ovs-vswitchd says that it can't open the interface.
func (i *Interface) Failed() bool { return i.Error != nil && *i.Error != "" }

// A Controller is one that a bridge connects to.
type Controller struct {
	UUID   string `ovsdb:"_uuid"`
	Target string `ovsdb:"target"`
}

// QoS is a limit that ports refer to.
type QoS struct {
	UUID        string            `ovsdb:"_uuid"`
	Type        string            `ovsdb:"type"`
	OtherConfig map[string]string `ovsdb:"other_config"`
	ExternalIDs map[string]string `ovsdb:"external_ids"`
}

// newClient returns a client, not connected yet, that knows these tables.
func newClient(endpoint string) (client.Client, error) {
	tables, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{
		"Open_vSwitch": &OpenVSwitch{}, "Bridge": &Bridge{}, "Port": &Port{}, "Interface": &Interface{},
		"Controller": &Controller{}, "QoS": &QoS{},
	})
	if err != nil {
		return nil, err
	}
	quiet := logr.Discard()
	return client.NewOVSDBClient(tables, client.WithEndpoint(endpoint), client.WithLogger(&quiet))
}

// monitored lists the columns one by one: without that, a monitor of a model that lacks columns delivers inserts
// but drops every later update (libovsdb v0.8.1).
func monitored(c client.Client) *client.Monitor {
	o, b, p, i, t, q := &OpenVSwitch{}, &Bridge{}, &Port{}, &Interface{}, &Controller{}, &QoS{}
	return c.NewMonitor(
		client.WithTable(o, &o.Bridges, &o.NextCfg, &o.CurCfg),
		client.WithTable(b, &b.Name, &b.Ports, &b.DatapathType, &b.FailMode, &b.Protocols, &b.Controller, &b.ExternalIDs),
		client.WithTable(p, &p.Name, &p.Interfaces, &p.Tag, &p.Trunks, &p.VLANMode, &p.QoS, &p.ExternalIDs),
		client.WithTable(i, &i.Name, &i.Type, &i.Ofport, &i.OfportRequest, &i.Error, &i.ExternalIDs),
		client.WithTable(t, &t.Target),
		client.WithTable(q, &q.Type, &q.OtherConfig, &q.ExternalIDs),
	)
}

// Rows returns the rows of the copy for which is returns true.
func Rows[T any](ctx context.Context, c client.Client, is func(*T) bool) ([]T, error) {
	var rows []T
	err := c.WhereCache(is).List(ctx, &rows)
	return rows, err
}
