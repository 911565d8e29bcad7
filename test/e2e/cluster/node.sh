#!/bin/sh
# Process 1 of a node, in mount, network, host name and process namespaces of its own. The node's disk
# is $2: /etc over the machine's, /var/lib, /var/log and /opt; all else that is written goes with it.
set -eu
node=$1 disk=$2 init=$3
mount --make-rprivate /
mkdir -p "$disk/etc" "$disk/work" "$disk/lib" "$disk/log" "$disk/opt"
mount -t overlay etc -o "lowerdir=/etc,upperdir=$disk/etc,workdir=$disk/work" /etc
mount --bind "$disk/lib" /var/lib
mount --bind "$disk/log" /var/log
mount --bind "$disk/opt" /opt
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/netns /run/lock /run/openvswitch /run/containerd /var/lib/openvswitch /etc/cni/net.d /etc/containerd /etc/kubernetes/manifests \
	/opt/cni/bin /var/lib/kubelet /var/log/pods
# The reference plugins are where a node has them; whatever runs on it sees no other directory.
[ -e /opt/cni/bin/bridge ] || cp /usr/lib/cni/* /opt/cni/bin
# /sys of this network namespace, with the machine's cgroups.
mkdir /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -l /run/cgroup
rmdir /run/cgroup
mount -t proc proc /proc
mount --make-rshared /
hostname "$node"
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
exec "$init"
