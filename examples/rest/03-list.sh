#!/bin/sh
# All attachments of the pod.
curl -sS --fail-with-body --unix-socket "${PATCHBAY_API:-/run/patchbay/api.sock}" \
  http://patchbay/v1/namespaces/default/pods/web/attachments
