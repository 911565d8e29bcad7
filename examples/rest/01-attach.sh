#!/bin/sh
# Attach an interface to the running pod "web": a pod's name and a network, success or error out.
curl -sS --fail-with-body --unix-socket "${PATCHBAY_API:-/run/patchbay/api.sock}" \
  -H 'Content-Type: application/json' \
  -d '{"network": "data", "interface": "hot1"}' \
  http://patchbay/v1/namespaces/default/pods/web/attachments
