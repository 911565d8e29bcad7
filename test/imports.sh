#!/bin/sh
# Check the direction of imports: each line is a rule, of the packages that the first pattern matches and
# of what they must not import. Both are extended regular expressions, without the module's path.
set -eu
module=$(go list -m)
imports=$(go list -e -f '{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}' ./...)
imports=$(printf '%s\n' "$imports" | sed "s#$module/##g")
broken=0
while read -r from not why; do
	found=$(printf '%s\n' "$imports" | grep -E "^($from) ($not)$" || true)
	[ -z "$found" ] || { broken=1; printf '%s\n' "$found" | sed "s#^\([^ ]*\) \(.*\)#\1 must not import \2: $why#"; }
done <<'EOF'
internal/.*               (attach|delegates|ipam|meta|cmd)(/.*)?       internal is the ground that all stand on
attach                    (delegates|ipam|meta)/.*                     the engine knows no concrete delegate, IPAM mode or catalog
attach                    (internal/etcd|go\.etcd\.io|k8s\.io|sigs\.k8s\.io)(/.*)? the engine knows neither etcd nor Kubernetes
attach                    (attach|cmd)/.*                              the engine knows neither doors nor sinks
meta(/.*)?                (attach|cmd)(/.*)?                           meta says what is wanted, not how it is made
meta                      (meta|delegates|ipam)/.*                     the planner knows no catalog, delegate or IPAM mode
delegates(/.*)?           (attach|meta|cmd)(/.*)?                      a delegate is told what to make
delegates                 (delegates|ipam)/.*                          the chain knows no concrete delegate or IPAM mode
ipam(/.*)?                (attach|meta|delegates|cmd)(/.*)?            addresses know nothing of who uses them
ipam                      (ipam/.*|internal/etcd|go\.etcd\.io/.*)      choosing an address knows neither modes nor etcd
(attach|attach/(api|cni|sinks|admission)(/.*)?|meta(/.*)?|delegates(/.*)?|ipam|ipam/node|cmd/patchctl(/.*)?) go\.etcd\.io/.* etcd's types stay in internal/etcd, attach/store and ipam/ledger
EOF
exit $broken
