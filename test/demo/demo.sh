#!/bin/bash
# The main job on one machine. Everything runs in a temporary directory and in a network namespace
# of its own: the machine's Open vSwitch, its bridges and its /etc are not touched.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "make demo makes network namespaces and needs root" >&2; exit 1; }
BIN=$PWD/bin D=/tmp/patchbay-demo NS=patchbay-demo
export PATCHBAY_SERVER=unix://$D/api.sock PATCHBAY_API=$D/api.sock

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
note() { printf '   %s\n' "$*"; }
show() { printf '   $ %s\n' "$*"; "$@" | sed 's/^/     /'; }
die() { echo "demo: $*" >&2; exit 1; }
in_node() { ip netns exec $NS "$@"; }
sandbox() { "$BIN/patchctl" sandbox "$@" --state-dir $D/sandboxes --cni-socket $D/cni.sock --del-queue $D/state/del-queue; }
netns_of() { "$BIN/patchctl" get sandboxes -o json | sed -n "/\"pod\": \"$1\"/,/\"netns\"/s/.*\"netns\": \"\(.*\)\",/\1/p" | head -n1 | xargs -r basename; }
ip_of() { curl -sS --unix-socket $D/api.sock "http://patchbay/v1/namespaces/default/pods/$1/attachments/$2" | grep -o '"ips":\["[0-9.]*' | cut -d'"' -f4; }
etcd() { ETCDCTL_API=3 etcdctl --endpoints unix://$D/state/etcd.sock "$@" | sed '/^$/d'; }
vsctl() { ovs-vsctl --db=unix:$D/ovs/db.sock "$@"; }
stop_pid() { # a pid file: ask, then wait
	local pid; pid=$(cat "$1" 2>/dev/null) || return 0
	kill "$pid" 2>/dev/null || return 0
	for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
	kill -9 "$pid" 2>/dev/null || true
}

clean() {
	local code=$?
	trap - EXIT INT TERM
	for p in $(jobs -p); do kill "$p" 2>/dev/null || true; done
	if [ -d $D ]; then
		[ $code = 0 ] || { echo; echo "demo failed; the daemon's last lines:"; tail -n 15 $D/patchbayd.log 2>/dev/null || true; }
		for f in $D/sandboxes/*.json; do
			[ -e "$f" ] || continue
			ip netns del "$(sed -n 's/.*"netns":"[^"]*\/\([^"]*\)".*/\1/p' "$f")" 2>/dev/null || true
		done
		stop_pid $D/patchbayd.pid
		stop_pid $D/ovs/vswitchd.pid
		stop_pid $D/ovs/db.pid
	fi
	ip netns del $NS 2>/dev/null || true
	# What "ip netns" makes with the first namespace of all goes with the last one.
	if [ -z "${had_netns-x}" ] && [ -z "$(ls -A /run/netns 2>/dev/null)" ]; then while umount /run/netns 2>/dev/null; do :; done; rmdir /run/netns 2>/dev/null || true; fi
	rm -rf $D
	exit $code
}

if [ "${1:-}" = stop ]; then trap - EXIT; (exit 0); clean; fi
[ ! -d $D ] && ! ip netns list | grep -qw $NS || die "a demo is there already ($D); stop it with: test/demo/demo.sh stop"
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
begin=$(date +%s)
had_netns=
[ ! -d /run/netns ] || had_netns=yes

say "A private Open vSwitch, in a network namespace of its own"
mkdir -p $D/ovs $D/manifests
ip netns add $NS
in_node ip link set lo up
ovsdb-tool create $D/ovs/conf.db /usr/share/openvswitch/vswitch.ovsschema
OVS_RUNDIR=$D/ovs in_node ovsdb-server $D/ovs/conf.db --remote=punix:$D/ovs/db.sock --unixctl=$D/ovs/db.ctl --pidfile=$D/ovs/db.pid --detach -vconsole:off --log-file=$D/ovs/db.log 2>/dev/null
vsctl --no-wait init
OVS_RUNDIR=$D/ovs in_node ovs-vswitchd unix:$D/ovs/db.sock --unixctl=$D/ovs/vswitchd.ctl --pidfile=$D/ovs/vswitchd.pid --detach -vconsole:off --log-file=$D/ovs/vswitchd.log 2>/dev/null
note "$(ovs-vswitchd --version | head -n1), userspace datapath"

say "patchbayd, with its embedded etcd; it makes the bridges br-data and br-control"
cp examples/networks/{data,control,blue}.yaml examples/pods/{web,db}.yaml $D/manifests/
ip netns exec $NS "$BIN/patchbayd" --set node=demo --set stateDir=$D/state --set listen.cni=$D/cni.sock --set listen.api=$D/api.sock \
	--set ovs.db=unix:$D/ovs/db.sock --set ovs.bridges.data.name=br-data --set ovs.bridges.control.name=br-control \
	--set standalone.manifests=$D/manifests --set "meta.cniBinDirs=[$BIN, /usr/lib/cni]" >$D/patchbayd.log 2>&1 &
echo $! >$D/patchbayd.pid
disown
for i in $(seq 200); do
	"$BIN/patchctl" get nodes >/dev/null 2>&1 && break
	[ "$i" -lt 200 ] && kill -0 "$(cat $D/patchbayd.pid)" 2>/dev/null || die "patchbayd did not start"
	sleep 0.05
done
show "$BIN/patchctl" get networks

say "Two pods start: web asks in the short form, db in JSON; each gets a data and a control NIC"
for pod in web db; do sed -n '/annotations:/,/^spec/p' examples/pods/$pod.yaml | grep -v -e annotations -e spec | sed 's/^/   /'; done
sandbox run web | sed 's/^/   /'
sandbox run db | sed 's/^/   /'
web=$(netns_of web) db=$(netns_of db)
show "$BIN/patchctl" get attachments -o wide

say "They reach each other on both networks"
data=$(ip_of db data0) control=$(ip_of db ctl0)
show ip netns exec "$web" ping -q -c 3 -i 0.2 "$data"
show ip netns exec "$web" ping -q -c 3 -i 0.2 "$control"

say "Hot-plug: while that ping goes on, web gets a NIC with curl and db one with patchctl"
ip netns exec "$web" ping -q -i 0.01 -c 300 "$data" >$D/ping.txt 2>&1 &
ping=$!
note "\$ curl --unix-socket api.sock -d '{\"network\": \"blue\", \"interface\": \"hot0\"}' .../pods/web/attachments"
curl -sS --fail-with-body --unix-socket $D/api.sock -H 'Content-Type: application/json' -d '{"network": "blue", "interface": "hot0"}' \
	http://patchbay/v1/namespaces/default/pods/web/attachments | sed 's/^/     /'
show "$BIN/patchctl" attach pod/db --network blue --interface hot0
wait $ping || die "the first ping failed: $(cat $D/ping.txt)"
grep -q ' 0% packet loss' $D/ping.txt || die "the first ping lost packets: $(cat $D/ping.txt)"
note "the first ping meanwhile: $(grep transmitted $D/ping.txt)"

say "TCP over the new NIC (a veth's checksum offload would stall it on this datapath)"
hot=$(ip_of db hot0)
ip netns exec "$db" iperf3 -s -1 -B "$hot" >$D/iperf-server.txt 2>&1 &
server=$!
for i in $(seq 50); do ip netns exec "$db" ss -ltn | grep -q :5201 && break; sleep 0.1; done
ip netns exec "$web" timeout 20 iperf3 -c "$hot" -t 2 -f m >$D/iperf.txt 2>&1 || die "iperf3: $(cat $D/iperf.txt)"
wait $server || true
note "$(grep receiver $D/iperf.txt)"

say "What is recorded"
show "$BIN/patchctl" get attachments -o wide
note "in etcd, the keys, and who has web's first address:"
show etcd get --prefix --keys-only /patchbay/v1/
show etcd get "/patchbay/v1/ipam/10.12.0.0-16/ips/10.12.0.0/24/$(ip_of web net1)"
show "$BIN/patchctl" get sandboxes -o wide
note "and on Open vSwitch:"
show ovs-vsctl --db=unix:$D/ovs/db.sock show

if [ -n "${KEEP:-}" ]; then
	say "It is left running. To play with it:"
	cat <<TXT
   export PATCHBAY_SERVER=$PATCHBAY_SERVER
   bin/patchctl get attachments -o wide
   bin/patchctl attach pod/web --network data
   bin/patchctl describe pod/web
   ip netns exec $web ip addr
   ovs-vsctl --db=unix:$D/ovs/db.sock show
   tail -f $D/patchbayd.log
 To stop it and remove everything:
   test/demo/demo.sh stop
TXT
	trap - EXIT INT TERM
	exit 0
fi

say "Unplug, and end the pods"
show "$BIN/patchctl" detach pod/web --interface hot0
show "$BIN/patchctl" detach pod/db --interface hot0
sandbox rm web | sed 's/^/   /'
sandbox rm db | sed 's/^/   /'

say "Nothing is left"
show "$BIN/patchctl" doctor
ports=$(vsctl --bare --columns=name find port 'external_ids:patchbay-sandbox!=""')
claims=$("$BIN/patchctl" ipam show -o json)
links=$(in_node ip -br link show type veth)
[ -z "$ports" ] && [ -z "$links" ] && [ "$(echo "$claims" | tr -d ' \n')" = "[]" ] || die "left: ports '$ports' links '$links' claims '$claims'"
note "no port, no link, no address; the demo took $(($(date +%s) - begin)) s"
