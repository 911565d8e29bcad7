package attack

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/patchbay-cni/patchbay/cmd/patchctl/sandbox"
	"github.com/patchbay-cni/patchbay/delegates/ovs"
	"github.com/patchbay-cni/patchbay/internal/netns"
	"github.com/patchbay-cni/patchbay/test/testnode"
)

// The userspace datapath reads a pod's frames from the host's end of its veth pair, and the kernel's own
// network stack sees them there, too (CVE-2020-10749 is the half of it that router advertisements are).
func TestPodsDoNotReachTheNodeThroughTheirOwnPort(t *testing.T) {
	n := testnode.Standard(t)
	s := n.Run(t, "web", "data")
	port, err := netlink.LinkByName(ovs.HostName(s.ContainerID, "net1"))
	if err != nil {
		t.Fatal(err)
	}
	seen := tap(t, port)

	t.Run("by an address of the node", func(t *testing.T) {
		testnode.Sh(t, "ip", "address", "replace", "192.0.2.1/32", "dev", "lo")
		node, err := net.ListenPacket("udp4", "192.0.2.1:9")
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close()
		testnode.Exec(t, s, "ip", "route", "replace", "192.0.2.1", "dev", "net1")
		testnode.Exec(t, s, "ip", "neigh", "replace", "192.0.2.1", "lladdr", port.Attrs().HardwareAddr.String(), "dev", "net1")
		testnode.Exec(t, s, "bash", "-c", "echo -n pod > /dev/udp/192.0.2.1/9")
		seen("pod")
		// What the kernel has taken was queued before this is.
		if err := send("udp4", "192.0.2.1:9", "node"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		_ = node.SetReadDeadline(time.Now().Add(time.Minute))
		if got, from, err := node.ReadFrom(b); err != nil || string(b[:got]) != "node" {
			t.Errorf("the node has received %q from %s (%v)", b[:got], from, err)
		}
	})
	t.Run("by asking for the hardware address of one of its addresses", func(t *testing.T) {
		testnode.Sh(t, "ip", "address", "replace", "192.0.2.1/32", "dev", "lo")
		testnode.Exec(t, s, "ip", "neigh", "del", "192.0.2.1", "dev", "net1")
		testnode.Exec(t, s, "bash", "-c", "echo -n who > /dev/udp/192.0.2.1/9")
		testnode.Eventually(t, "nobody has answered", func() bool {
			neighbour := testnode.Exec(t, s, "ip", "neigh", "show", "192.0.2.1", "dev", "net1")
			if strings.Contains(neighbour, "lladdr") {
				t.Fatalf("the node has answered: %s", neighbour)
			}
			return strings.Contains(neighbour, "FAILED")
		})
	})
	t.Run("by router advertisements", func(t *testing.T) {
		testnode.Sh(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/"+port.Attrs().Name+"/accept_ra")
		advertise(t, s)
		seen(string(advertisement[4:]))
		if routes := testnode.Sh(t, "ip", "-6", "route", "show", "default"); routes != "" {
			t.Errorf("the node has a default route through the pod: %s", routes)
		}
	})
	t.Run("after the firewall was emptied", func(t *testing.T) {
		testnode.Sh(t, "nft", "flush", "ruleset")
		testnode.Eventually(t, "the rules are back", func() bool { return shielded(t) })
	})
	t.Run("while the daemon is away", func(t *testing.T) {
		n.Daemon.Stop()
		if !shielded(t) {
			t.Error("the rules went with the daemon, and the pod is still there")
		}
		n.Start(t)
		if err := n.Remove("web"); err != nil {
			t.Fatal(err)
		}
		n.Daemon.Stop()
		if shielded(t) {
			t.Error("the rules are left, and no pod is there")
		}
		n.Start(t)
	})
}

func shielded(t *testing.T) bool {
	t.Helper()
	return strings.Contains(testnode.Sh(t, "nft", "list", "ruleset"), "table inet patchbay")
}

// tap returns what waits for a frame with the text to come from the pod. The kernel's stack has what it
// takes of a frame before whoever waits here is scheduled.
func tap(t *testing.T, port netlink.Link) func(text string) {
	t.Helper()
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: port.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	return func(text string) {
		t.Helper()
		b := make([]byte, 2048)
		_ = f.SetReadDeadline(time.Now().Add(time.Minute))
		for {
			n, err := f.Read(b)
			if err != nil {
				t.Fatalf("no frame with %q has come from the pod: %v", text, err)
			}
			if strings.Contains(string(b[:n]), text) {
				return
			}
		}
	}
}

func send(network, to, text string) error {
	c, err := net.Dial(network, to)
	if err != nil {
		return err
	}
	_, err = c.Write([]byte(text))
	return errors.Join(err, c.Close())
}

// advertisement is a router advertisement of a default route for half an hour, without its checksum (RFC
// 4861 section 4.2).
var advertisement = []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}

// advertise sends a router advertisement from a pod to all nodes of its network.
func advertise(t *testing.T, s *sandbox.Sandbox) {
	t.Helper()
	h, err := netns.Open(s.Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	testnode.Exec(t, s, "ip", "address", "replace", "fe80::1/64", "dev", "net1", "nodad")
	err = h.Do(func() error {
		var c net.ListenConfig
		conn, err := c.ListenPacket(context.Background(), "ip6:ipv6-icmp", "fe80::1%net1")
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.(*net.IPConn).SyscallConn()
		if err != nil {
			return err
		}
		var set error
		if err := raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
		}); err != nil || set != nil {
			return errors.Join(err, set)
		}
		_, err = conn.WriteTo(advertisement, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "net1"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
