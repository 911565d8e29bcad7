package ovs

import (
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// An announcer tells the network where an address is now: by gratuitous ARP (RFC 5227 section 3) for IPv4, by
// unsolicited neighbour advertisement (RFC 4861 section 7.2.6) for IPv6. Its socket belongs to the pod's
// namespace and works from outside it.
type announcer struct {
	fd    int
	index int
	mac   net.HardwareAddr
}

// newAnnouncer opens the socket. Run it inside the namespace.
func newAnnouncer(index int, mac net.HardwareAddr) (*announcer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0 receives nothing
	if err != nil {
		return nil, err
	}
	return &announcer{fd: fd, index: index, mac: mac}, nil
}

// announce sends one frame for each address. It returns no error: a peer with a stale entry finds the address
// without it, a moment later.
func (a *announcer) announce(ips []*types100.IPConfig) {
	for _, ip := range ips {
		frame := arpFrame(a.mac, ip.Address.IP)
		if ip.Address.IP.To4() == nil {
			frame = neighborFrame(a.mac, ip.Address.IP)
		}
		to := &unix.SockaddrLinklayer{Ifindex: a.index, Halen: 6}
		copy(to.Addr[:], frame[:6])
		_ = unix.Sendto(a.fd, frame, 0, to)
	}
}

// close closes the socket, if there is one. The kernel takes 20 ms and more for it: keep it off the fast path.
func (a *announcer) close() {
	if a != nil {
		_ = unix.Close(a.fd)
	}
}

func arpFrame(mac net.HardwareAddr, ip net.IP) []byte {
	return slices.Concat[[]byte](
		[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{0x08, 0x06}, // to all, ARP
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, // Ethernet, IPv4, lengths of their addresses, request
		mac, ip.To4(), make([]byte, 6), ip.To4())
}

func neighborFrame(mac net.HardwareAddr, ip net.IP) []byte {
	allNodes := net.IP{0xff, 0x02, 15: 1}
	body := slices.Concat[[]byte]([]byte{0x20, 0, 0, 0}, ip.To16(), []byte{2, 1}, mac) // override; target link-layer address
	m := icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}
	b, _ := m.Marshal(icmp.IPv6PseudoHeader(ip.To16(), allNodes)) // raw bytes can't fail
	return slices.Concat[[]byte](
		[]byte{0x33, 0x33, 0, 0, 0, 1}, mac, []byte{0x86, 0xdd}, // to all nodes, IPv6
		[]byte{0x60, 0, 0, 0, 0, byte(len(b)), 58, 255}, // ICMPv6, hop limit 255
		ip.To16(), allNodes, b)
}
