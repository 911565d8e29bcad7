#!/bin/sh
# Starts the test cluster in the background, says how to use it, and stops it.
set -eu
cd "$(dirname "$0")/../.."
bin=$PWD/.cache/e2e/bin
run=$PWD/.cache/e2e/cluster
pid() { cat "$run/pid" 2>/dev/null; }
alive() { [ -n "$(pid)" ] && kill -0 "$(pid)" 2>/dev/null; }

stop() {
	alive || { echo "no cluster is running"; return; }
	kill "$(pid)"
	while alive; do sleep 0.2; done
	rm -rf "$run"
	echo "the cluster is gone"
}

start() {
	if alive; then echo "a cluster is running already"; usage; return; fi
	rm -rf "$run"
	mkdir -p "$run"
	setsid "$bin/cluster" -root "$PWD" -enter "$run/enter" </dev/null >"$run/log" 2>&1 &
	echo $! >"$run/pid"
	shown=0
	while ! grep -q '^ready' "$run/log"; do
		alive || { cat "$run/log"; exit 1; }
		lines=$(wc -l <"$run/log")
		[ "$lines" -gt "$shown" ] && sed -n "$((shown + 1)),${lines}p" "$run/log" && shown=$lines
		sleep 0.2
	done
	tail -n +$((shown + 1)) "$run/log" | grep -v '^ready' || true
	printf '#!/bin/sh\nexec "%s/enter" "%s/kubectl" --kubeconfig /mnt/cluster/admin.kubeconfig "$@"\n' "$run" "$bin" >"$run/kubectl"
	chmod +x "$run/kubectl"
	usage
}

usage() {
	cat <<EOF

Two nodes, n1 and n2, with Patchbay. To play with them:
   export PATH=$run:\$PATH                 # kubectl for this cluster
   kubectl get pods -A -o wide
   kubectl apply -f examples/networks
   kubectl run web --image=e2e.invalid/tools:1 --annotations=k8s.v1.cni.cncf.io/networks=data --command -- sleep 1000000
   $run/enter n1 patchctl get attachments -o wide     # a command on a node
The kubeconfig is /mnt/cluster/admin.kubeconfig, seen from inside: $run/enter sh
To stop it:
   make cluster STOP=1
EOF
}

case ${1:-start} in
start) start ;;
stop) stop ;;
*) echo "usage: $0 [start|stop]" >&2; exit 2 ;;
esac
