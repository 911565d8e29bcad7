package bench

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-kubernetes/libovsdb/cache"
	ovsclient "github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// A floor does the least that an attachment needs, step by step: link, address, port until its
// ofport is known, one put.
type floor struct {
	b    *testing.B
	etcd *clientv3.Client
	ovs  ovsclient.Client
	ns   *netns.Handle
	seq  int

	mu   sync.Mutex
	wait map[string]chan struct{}
}

type bridgeRow struct {
	UUID  string   `ovsdb:"_uuid"`
	Name  string   `ovsdb:"name"`
	Ports []string `ovsdb:"ports"`
}
type portRow struct {
	UUID       string   `ovsdb:"_uuid"`
	Name       string   `ovsdb:"name"`
	Interfaces []string `ovsdb:"interfaces"`
}
type ifaceRow struct {
	UUID   string `ovsdb:"_uuid"`
	Name   string `ovsdb:"name"`
	Ofport *int   `ovsdb:"ofport"`
}

func newFloor(b *testing.B, n *testnode.Node) *floor {
	f := &floor{b: b, etcd: etcdClient(b, n), wait: map[string]chan struct{}{}}
	m, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{"Bridge": &bridgeRow{}, "Port": &portRow{}, "Interface": &ifaceRow{}})
	f.must(err)
	quiet := logr.Discard()
	f.ovs, err = ovsclient.NewOVSDBClient(m, ovsclient.WithEndpoint(n.OVS.DB), ovsclient.WithLogger(&quiet))
	f.must(err)
	f.must(f.ovs.Connect(context.Background()))
	b.Cleanup(f.ovs.Close)
	f.ovs.Cache().AddEventHandler(&cache.EventHandlerFuncs{
		AddFunc: func(_ string, m model.Model) { f.tell(m) }, UpdateFunc: func(_ string, _, m model.Model) { f.tell(m) }})
	br, p, i := &bridgeRow{}, &portRow{}, &ifaceRow{}
	_, err = f.ovs.Monitor(context.Background(), f.ovs.NewMonitor(ovsclient.WithTable(br, &br.Name, &br.Ports), ovsclient.WithTable(p, &p.Name, &p.Interfaces), ovsclient.WithTable(i, &i.Name, &i.Ofport)))
	f.must(err)
	f.ns, err = netns.Open(testnode.Netns(b, "floor"))
	f.must(err)
	return f
}

func (f *floor) must(err error) {
	if err != nil {
		f.b.Helper()
		f.b.Fatal(err)
	}
}

func (f *floor) tell(m model.Model) {
	if i, ok := m.(*ifaceRow); ok && i.Ofport != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if ch := f.wait[i.Name]; ch != nil {
			close(ch)
			delete(f.wait, i.Name)
		}
	}
}

// measure times each step and, as "floor: all", their sum; then it takes everything away, untimed.
func (f *floor) measure(r *report, suffix string, exec func()) {
	f.seq++
	name := fmt.Sprintf("fl%d", f.seq)
	r.time("floor: all"+suffix, func() {
		r.time("floor: exec"+suffix, exec)
		r.time("floor: link and address"+suffix, func() { f.link(name, f.seq) })
		r.time("floor: OVSDB until ofport"+suffix, func() { f.port(name) })
		r.time("floor: etcd put"+suffix, f.put)
	})
	f.remove(name)
	f.deleteLink(name)
}

func (f *floor) link(name string, i int) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = name, net.FlagUp
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "p"+name, netlink.NsFd(f.ns.Fd())
	f.must(netlink.LinkAdd(v))
	f.must(f.ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("p" + name)
		if err != nil {
			return err
		}
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, byte(i>>8), byte(i)), Mask: net.CIDRMask(16, 32)}}); err != nil {
			return err
		}
		return h.LinkSetUp(l)
	}))
}

func (f *floor) port(name string) {
	br := &bridgeRow{Name: "br-data"}
	f.must(f.ovs.Get(context.Background(), br))
	i := &ifaceRow{UUID: "i", Name: name}
	p := &portRow{UUID: "p", Name: name, Interfaces: []string{"i"}}
	ops, err := f.ovs.Create(i)
	f.must(err)
	more, err := f.ovs.Create(p)
	f.must(err)
	mutate, err := f.ovs.Where(br).Mutate(br, model.Mutation{Field: &br.Ports, Mutator: ovsdb.MutateOperationInsert, Value: []string{"p"}})
	f.must(err)
	ch := make(chan struct{})
	f.mu.Lock()
	f.wait[name] = ch
	f.mu.Unlock()
	f.transact(append(append(ops, more...), mutate...))
	<-ch
}

func (f *floor) transact(ops []ovsdb.Operation) {
	res, err := f.ovs.Transact(context.Background(), ops...)
	f.must(err)
	_, err = ovsdb.CheckOperationResults(res, ops)
	f.must(err)
}

func (f *floor) put() {
	_, err := f.etcd.Put(context.Background(), "/floor", "value of a floor's put, some bytes long")
	f.must(err)
}

func (f *floor) remove(name string) {
	p, br := &portRow{Name: name}, &bridgeRow{Name: "br-data"}
	f.must(f.ovs.Get(context.Background(), p))
	f.must(f.ovs.Get(context.Background(), br))
	ops, err := f.ovs.Where(br).Mutate(br, model.Mutation{Field: &br.Ports, Mutator: ovsdb.MutateOperationDelete, Value: []string{p.UUID}})
	f.must(err)
	f.transact(ops)
}

func (f *floor) deleteLink(name string) {
	l, err := netlink.LinkByName(name)
	f.must(err)
	f.must(netlink.LinkDel(l))
}

// groupedDelete times one deletion of a group of three links.
func (f *floor) groupedDelete(r *report) {
	const group = 77
	for i := range 3 {
		name := fmt.Sprintf("fg%d", i)
		f.link(name, i+1)
		l, err := netlink.LinkByName(name)
		f.must(err)
		f.must(netlink.LinkSetGroup(l, group))
	}
	settle()
	r.time("floor: grouped deletion of 3 links", func() {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		f.must(err)
	})
}

// sequential makes the NICs of so many pods one after another, a transaction and a put each.
func (f *floor) sequential(pods, nics int) time.Duration {
	begin := time.Now()
	for i := range pods * nics {
		name := fmt.Sprintf("fs%d", i)
		f.link(name, i+1)
		f.port(name)
		f.put()
	}
	took := time.Since(begin)
	for i := range pods * nics {
		name := fmt.Sprintf("fs%d", i)
		f.remove(name)
		f.deleteLink(name)
	}
	return took
}
