#!/bin/bash
# What docker-entrypoint.sh of the official rabbitmq image does: root becomes rabbitmq, who owns the data. The
# server itself reads RABBITMQ_DEFAULT_USER, RABBITMQ_DEFAULT_PASS and RABBITMQ_DEFAULT_VHOST, and /etc/rabbitmq.
set -euo pipefail

if [[ $1 == rabbitmq* && $(id -u) == 0 ]]; then
    if [ "$1" = rabbitmq-server ]; then find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq '{}' +; fi
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups "${BASH_SOURCE[0]}" "$@"
fi
exec "$@"
