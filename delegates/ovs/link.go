package ovs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/patchbay-cni/patchbay/internal/failpoint"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/batch"
	"github.com/patchbay-cni/patchbay/internal/cniwire"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/internal/netns"
)

// LinkGroup marks the host's ends of our veth pairs; the number is "pb".
const LinkGroup = 0x7062

var hostNamePattern = regexp.MustCompile(`^pb[0-9a-f]{12}$`)

// HostName returns the name that an interface of a sandbox has in the host: that of its link's end and of its port.
func HostName(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + ifName))
	return "pb" + hex.EncodeToString(sum[:6])
}

// hostMAC returns a high address. A bridge takes the lowest of its ports', and so keeps its own.
func hostMAC(hostName string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(hostName))
	return append(net.HardwareAddr{0xfe}, sum[:5]...)
}

// links makes and removes veth pairs. Removals that arrive together are made as one removal of a link group,
// so that the kernel waits for its readers once and not once per link.
type links struct {
	remover *batch.Batcher[[]string]
	group   atomic.Uint32
	after   sync.WaitGroup // requests that the kernel has not yet answered
}

func newLinks() *links {
	l := &links{}
	l.remover = batch.New(64, l.removeAll)
	return l
}

// create makes a veth pair with one end in the host, up, and the other in the pod's namespace
// under its final name, down.
func (l *links) create(p *plan, ns *netns.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group = p.port, p.conf.MTU, LinkGroup
	attrs.HardwareAddr, attrs.Flags = hostMAC(p.port), net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = p.a.Interface, p.mac, uint32(p.conf.MTU)
	veth.PeerNamespace = netlink.NsFd(ns.Fd())
	err := netlink.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) && !link.IsGone(p.port) {
		// Nobody else uses such a name: an interrupted call has left the link.
		if err := l.remove([]string{p.port}); err != nil {
			return err
		}
		err = netlink.LinkAdd(veth)
	}
	if errors.Is(err, unix.EEXIST) {
		return types.NewError(cniwire.ErrRefused, p.a.Interface+": the pod has an interface of that name already", "choose another \"interface\" name")
	}
	if err != nil {
		return fmt.Errorf("make veth pair %s, %s: %w", p.port, p.a.Interface, err)
	}
	if err := failpoint.Hit("ovs-veth-added"); err != nil {
		return err
	}
	// The host is to have no address on a pod's network. The kernel has made none yet, as the end has no carrier.
	err = netlink.LinkSetIP6AddrGenMode(veth, addrGenModeNone)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("keep IPv6 addresses off %s: %w", p.port, err)
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE, linux/if_link.h.
const addrGenModeNone = 1

// hostEnds returns the names of the host's ends of all our veth pairs.
func hostEnds() ([]string, error) {
	all, err := link.Links()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range all {
		if l.Attrs().Group == LinkGroup && l.Type() == "veth" && hostNamePattern.MatchString(l.Attrs().Name) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// configure sets the pod's end up: offload, limit, addresses, up, routes, in this order. It opens the
// socket to announce the addresses with. Run it inside the namespace.
func (p *plan) configure() error {
	name := p.a.Interface
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", name, err)
	}
	if p.userspace {
		if err := checksumOff(name); err != nil {
			return err
		}
	}
	if rate := uint64(p.conf.QoS.EgressRate); rate > 0 {
		if err := limitEgress(l, rate); err != nil {
			return err
		}
	}
	if err := (link.NIC{Name: name, Result: p.result}).Apply(); err != nil {
		return err
	}
	if len(p.result.IPs) > 0 {
		p.announcer, err = newAnnouncer(l.Attrs().Index, l.Attrs().HardwareAddr)
	}
	return err
}

// limitEgress limits what the pod sends, on the pod's end: the userspace datapath reads packets from the host's
// end before the kernel could limit them there.
func limitEgress(l netlink.Link, bits uint64) error {
	bytes := max(bits/8, 1)
	burst := uint32(min(max(bytes/250, 16*1024), 1<<20))
	qdisc := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytes, Buffer: uint32(float64(burst) * float64(netlink.TickInUsec()) * 1e6 / float64(bytes)),
		Limit: burst + uint32(min(bytes/40, 1<<22)),
	}
	if err := netlink.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("limit what %s sends to %d bit/s: %w", l.Attrs().Name, bits, err)
	}
	return nil
}

// ifReqSize is the size of struct ifreq, linux/if.h.
const ifReqSize = 40

// checksumOff switches TX checksum offload off. Otherwise the kernel leaves checksums to a card that doesn't exist,
// the userspace datapath reads packets without them, and TCP stalls. A library for ethtool would ask for the
// names of all features first, which takes fifty times as long, and leave SCTP's offload on.
func checksumOff(ifName string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	value := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [ifReqSize - unix.IFNAMSIZ - 8]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], ifName)
	req.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("switch TX checksum offload off on %s: %w", ifName, errno)
	}
	return nil
}
