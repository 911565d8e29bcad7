#!/bin/sh
# Install what is missing on a Debian machine. The packages' own services are not started: tests and
# demo run private ones.
set -eu
missing=
need() { command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || missing="$missing $2"; }
need ovs-vswitchd openvswitch-switch
need ovs-vsctl openvswitch-common
need /usr/lib/cni/macvlan containernetworking-plugins
need ip iproute2
need ping iputils-ping
need iperf3 iperf3
need curl curl
need ethtool ethtool
need tcpdump tcpdump
need gcc gcc
need etcdctl etcd-client
need etcd etcd-server
need runc runc
need busybox busybox-static
need nft nftables
need nsenter util-linux
need strace strace
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "missing:$missing; run as root, or install them" >&2; exit 1; }
echo "installing:$missing"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
fi
log=$(mktemp)
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 || { cat "$log"; exit 1; }
rm -f "$log"
