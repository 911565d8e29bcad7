#!/bin/sh
# Detach both again.
for nic in hot1 hot2; do
  curl -sS --fail-with-body --unix-socket "${PATCHBAY_API:-/run/patchbay/api.sock}" -X DELETE \
    http://patchbay/v1/namespaces/default/pods/web/attachments/$nic || exit 1
done
