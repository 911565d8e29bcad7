package ovs

import (
	"bytes"
	"encoding/hex"
	"net"
	"runtime"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/internal/link"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// What a pod's peers on the wire get: the bytes are written out by the RFCs, field by field, so that they
// are not compared with what made them.
func TestAnnouncementsOnTheWire(t *testing.T) {
	testnode.Sh(t, "ip", "netns", "add", "pod")
	t.Cleanup(func() { testnode.Sh(t, "ip", "netns", "del", "pod") })
	testnode.Sh(t, "ip", "link", "add", "wire0", "up", "type", "veth",
		"peer", "name", "net1", "address", "0a:58:0a:00:00:05", "netns", "pod")
	wire, err := link.Find("wire0")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Open("/run/netns/pod")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	capture, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(capture) }()
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in network byte order
	if err := unix.Bind(capture, &unix.SockaddrLinklayer{Protocol: all, Ifindex: wire.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(capture, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}

	var ips []*types100.IPConfig
	for _, a := range []string{"10.0.0.5/24", "fd00::5/64"} {
		ip, subnet, err := net.ParseCIDR(a)
		if err != nil {
			t.Fatal(err)
		}
		ips = append(ips, &types100.IPConfig{Address: net.IPNet{IP: ip, Mask: subnet.Mask}})
	}
	var a *announcer
	err = ns.Do(func() error {
		l, err := netlink.LinkByName("net1")
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err == nil {
			a, err = newAnnouncer(l.Attrs().Index, l.Attrs().HardwareAddr)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	runtime.LockOSThread() // which has left the pod's namespace again
	a.announce(ips)
	runtime.UnlockOSThread()

	const mac, ip4, ip6, allNodes = "0a580a000005", "0a000005", "fd000000000000000000000000000005", "ff020000000000000000000000000001"
	want := map[string]string{
		"gratuitous ARP (RFC 5227 section 3)": "ffffffffffff" + mac + "0806" + // to all, ARP
			"0001" + "0800" + "06" + "04" + "0001" + // Ethernet, IPv4, lengths of their addresses, request
			mac + ip4 + // the sender
			"000000000000" + ip4, // the target: the address itself
		"unsolicited neighbour advertisement (RFC 4861 section 4.4)": "333300000001" + mac + "86dd" + // to all nodes, IPv6
			"60000000" + "0020" + "3a" + "ff" + // version, 32 bytes of ICMPv6, hop limit 255
			ip6 + allNodes +
			"88" + "00" + "CSUM" + "20000000" + // advertisement; override, neither router nor solicited
			ip6 + // the target
			"02" + "01" + mac, // option: target link-layer address, of 8 bytes
	}
	for len(want) > 0 {
		b := make([]byte, 2048)
		n, err := unix.Read(capture, b)
		if err != nil {
			t.Fatalf("%v; not seen: %v", err, want)
		}
		for what, frame := range want {
			if fits(b[:n], frame) {
				delete(want, what)
			}
		}
	}
}

// fits reports whether a frame is as wanted, and its checksum (RFC 4443 section 2.3) holds if it has one.
func fits(frame []byte, want string) bool {
	const sumAt = 14 + 40 + 2
	if !strings.Contains(want, "CSUM") {
		return hex.EncodeToString(frame) == want
	}
	if len(frame) < sumAt+2 {
		return false
	}
	filled := strings.Replace(want, "CSUM", hex.EncodeToString(frame[sumAt:sumAt+2]), 1)
	raw, err := hex.DecodeString(filled)
	return err == nil && bytes.Equal(frame, raw) && sumOf(frame) == 0xffff
}

// sumOf adds up the pseudo-header's and the message's 16-bit words, the checksum among them: all ones.
func sumOf(frame []byte) uint32 {
	sum := uint32(len(frame)-14-40) + 58
	for i := 14 + 8; i+1 < len(frame); i += 2 { // addresses, then the message
		sum += uint32(frame[i])<<8 | uint32(frame[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}
