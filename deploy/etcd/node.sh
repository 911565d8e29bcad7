#!/bin/sh
# Let a node into an etcd that has users: node.sh NODE [PREFIX]. It makes the role patchbay-NODE, with the keys that
# a daemon needs and no others, and the user of that name, which is known by a client certificate with that common
# name; for one with a password give PASSWORD_FILE. It can be run again. etcdctl finds etcd, and root's
# certificate, by its own variables: ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY.
set -eu
node=$1 prefix=${2:-/patchbay/v1}
export ETCDCTL_API=3
name=patchbay-$node
etcdctl role get "$name" >/dev/null 2>&1 || etcdctl role add "$name"
grant() { etcdctl role grant-permission "$name" "$@" >/dev/null; }
grant readwrite --prefix "$prefix/sandboxes/$node/" # this node's pods
grant readwrite --prefix "$prefix/subnets/$node/"   # this node's subnets
grant readwrite "$prefix/nodes/$node"
grant readwrite "$prefix/live/$node"
grant readwrite --prefix "$prefix/ipam/" # pools and claims, of all nodes
grant readwrite "$prefix/ipam-pools"     # orders those who define pools
grant readwrite --prefix "$prefix/pods/" # where a pod's name leads
grant read "$prefix/version"             # both are written below, and stop all nodes when they change
grant read "$prefix/birth"
grant read --prefix "$prefix/nodes/"
grant read --prefix "$prefix/live/"
if [ -z "$(etcdctl get --keys-only "$prefix/birth")" ]; then
	etcdctl put "$prefix/version" 2 >/dev/null
	etcdctl put "$prefix/birth" "{\"id\":\"$(cat /proc/sys/kernel/random/uuid)\",\"createdAt\":\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"}" >/dev/null
fi
if ! etcdctl user get "$name" >/dev/null 2>&1; then
	if [ -n "${PASSWORD_FILE:-}" ]; then
		etcdctl user add "$name" --interactive=false <"$PASSWORD_FILE"
	else
		etcdctl user add "$name" --no-password
	fi
fi
etcdctl user grant-role "$name" "$name"
