#!/bin/sh
# The same with a whole CNI configuration in the request, for the node's root only.
curl -sS --fail-with-body --unix-socket "${PATCHBAY_API:-/run/patchbay/api.sock}" \
  -H 'Content-Type: application/json' -X PUT \
  -d '{"config": {"cniVersion": "1.1.0", "name": "green", "type": "patchbay-ovs", "network": "data", "vlan": 200}}' \
  http://patchbay/v1/namespaces/default/pods/web/attachments/hot2
