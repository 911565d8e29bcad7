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

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/batch"
	"github.com/patchbay-cni/patchbay/internal/fault"
	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/internal/netns"
)

// linkGroup marks the host's ends of our veth pairs, "pb".
const linkGroup = 0x7062

var hostNamePattern = regexp.MustCompile(`^pb[0-9a-f]{12}$`)

// HostName is the name of the host's end, and of the port, of an interface of a sandbox.
func HostName(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + ifName))
	return "pb" + hex.EncodeToString(sum[:6])
}

// hostMAC is a high address, so that a bridge, which takes the lowest of its ports', keeps its own.
func hostMAC(hostName string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(hostName))
	return append(net.HardwareAddr{0xfe}, sum[:5]...)
}

// links makes and removes veth pairs. Removals that arrive together are one removal of a link
// group: the kernel waits for its readers once, not once per link.
type links struct {
	remover *batch.Batcher[[]string]
	group   atomic.Uint32
	after   sync.WaitGroup // requests that the kernel has not answered yet
}

func newLinks() *links {
	l := &links{}
	l.remover = batch.New(64, l.removeAll)
	return l
}

// errExists says that the pod has an interface of that name.
var errExists = fault.New(fault.Invalid, "the pod has an interface of that name already")

// create makes a veth pair with one end in the host, up, and the other in the pod's namespace
// under its final name, down.
func (l *links) create(hostName, ifName string, mac net.HardwareAddr, mtu int, ns *netns.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group = hostName, mtu, linkGroup
	attrs.HardwareAddr, attrs.Flags = hostMAC(hostName), net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr, veth.PeerMTU = ifName, mac, uint32(mtu)
	veth.PeerNamespace = netlink.NsFd(ns.Fd())
	err := netlink.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// The host's name is ours alone: what has it is left from an interrupted call.
		if _, getErr := netlink.LinkByName(hostName); getErr != nil {
			return fmt.Errorf("%s: %w", ifName, errExists)
		}
		if err := l.remove([]string{hostName}); err != nil {
			return err
		}
		if err = netlink.LinkAdd(veth); errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", ifName, errExists)
		}
	}
	if err != nil {
		return fmt.Errorf("make veth pair %s, %s: %w", hostName, ifName, err)
	}
	// The host has nothing to say on a pod's network: it takes no address there. The end has no
	// carrier yet, so none was made either.
	err = netlink.LinkSetIP6AddrGenMode(veth, addrGenModeNone)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("keep IPv6 addresses off %s: %w", hostName, err)
	}
	return nil
}

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE, linux/if_link.h.
const addrGenModeNone = 1

// ours returns the names of the host's ends of all our veth pairs.
func ours() ([]string, error) {
	all, err := link.Links()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range all {
		if l.Attrs().Group == linkGroup && l.Type() == "veth" && hostNamePattern.MatchString(l.Attrs().Name) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// noLink reports that the node has no link of the name, for certain: not if it can't be asked.
func noLink(name string) bool {
	l, err := link.Find(name)
	return l == nil && err == nil
}

// podSide is what is to be set on the pod's end.
type podSide struct {
	ifName      string
	result      *types100.Result
	checksumOff bool
	egressRate  uint64 // bit/s; 0: not limited
}

// configure sets the pod's end up: offload, addresses, up, routes, in this order. It returns a
// socket to announce the addresses with. Run it inside the namespace.
func configure(p podSide) (*announcer, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	l, err := h.LinkByName(p.ifName)
	if err != nil {
		return nil, fmt.Errorf("find %s in the pod: %w", p.ifName, err)
	}
	if p.checksumOff {
		if err := checksumOff(p.ifName); err != nil {
			return nil, err
		}
	}
	if p.egressRate > 0 {
		if err := limitEgress(h, l, p.egressRate); err != nil {
			return nil, err
		}
	}
	if err := (link.NIC{Name: p.ifName, Result: p.result}).Apply(); err != nil {
		return nil, err
	}
	if len(p.result.IPs) == 0 {
		return nil, nil
	}
	return newAnnouncer(l.Attrs().Index, l.Attrs().HardwareAddr)
}

// limitEgress shapes what the pod sends, where it sends it: behind the switch's back the packets
// are read from the device before any policing there.
func limitEgress(h *netlink.Handle, link netlink.Link, bits uint64) error {
	bytes := max(bits/8, 1)
	burst := uint32(min(max(bytes/250, 16*1024), 1<<20))
	qdisc := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytes, Buffer: uint32(float64(burst) * float64(netlink.TickInUsec()) * 1e6 / float64(bytes)),
		Limit: burst + uint32(min(bytes/40, 1<<22)),
	}
	if err := h.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("limit what %s sends to %d bit/s: %w", link.Attrs().Name, bits, err)
	}
	return nil
}

// ifReqSize is the size of struct ifreq, linux/if.h.
const ifReqSize = 40

// checksumOff switches TX checksum offload off: the userspace datapath reads packets with the
// checksum the kernel has left to a card that doesn't exist, and TCP stalls. A library for ethtool asks
// for the names of all features first, which takes fifty times as long, and leaves SCTP's on.
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
