#!/bin/bash
# Debian's exporter is older than compose.yaml's: the collectors that it does not know are left out. What they tell
# comes from infra/postgres-exporter/queries.yml, as natively (ops/stack/servers/exporters.py).
set -euo pipefail

known=()
for word; do
    case $word in
    --collector.* | --no-collector.*) ;;
    *) known+=("$word") ;;
    esac
done
exec prometheus-postgres-exporter --extend.query-path=/queries.yml "${known[@]}"
