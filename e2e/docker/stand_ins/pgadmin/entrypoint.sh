#!/bin/bash
# What entrypoint.sh of the official pgAdmin image does, as far as compose.yaml uses it: PGADMIN_CONFIG_* become
# options, the first start makes the login PGADMIN_DEFAULT_EMAIL / PGADMIN_DEFAULT_PASSWORD[_FILE], and the servers of
# PGADMIN_SERVER_JSON_FILE are listed: then, or at every start by PGADMIN_REPLACE_SERVERS_ON_STARTUP.
set -euo pipefail

: "${PGADMIN_DEFAULT_EMAIL:?must be given, as to the official image}"
if [ -n "${PGADMIN_DEFAULT_PASSWORD_FILE:-}" ]; then PGADMIN_DEFAULT_PASSWORD=$(<"$PGADMIN_DEFAULT_PASSWORD_FILE"); fi
: "${PGADMIN_DEFAULT_PASSWORD:?must be given, as to the official image}"
data=/var/lib/pgadmin
{
    printf "DATA_DIR = '%s'\nLOG_FILE = '/dev/null'\nSQLITE_PATH = '%s/pgadmin4.db'\n" "$data" "$data"
    printf "SESSION_DB_PATH = '%s/sessions'\nSTORAGE_DIR = '%s/storage'\n" "$data" "$data"
    printf "MASTER_PASSWORD_HOOK = None\nUPGRADE_CHECK_ENABLED = False\n"
    env | sed -n 's/^PGADMIN_CONFIG_\([A-Z0-9_]*\)=/\1 = /p'
} >/pgadmin4/config_distro.py

export PGADMIN_SETUP_EMAIL=$PGADMIN_DEFAULT_EMAIL PGADMIN_SETUP_PASSWORD=$PGADMIN_DEFAULT_PASSWORD
servers=${PGADMIN_SERVER_JSON_FILE:-/pgadmin4/servers.json}
first=''
[ -f "$data/pgadmin4.db" ] || first=yes
/venv/bin/python /pgadmin4/setup.py setup-db
if [ -n "${PGPASS_FILE:-}" ]; then
    own=$data/storage/${PGADMIN_DEFAULT_EMAIL/@/_}
    mkdir -p "$own"
    install -m 600 "$PGPASS_FILE" "$own/.pgpass"
fi
if [ -f "$servers" ] && [ -n "$first" ]; then
    /venv/bin/python /pgadmin4/setup.py load-servers "$servers" --user "$PGADMIN_DEFAULT_EMAIL"
elif [ -f "$servers" ] && [ "${PGADMIN_REPLACE_SERVERS_ON_STARTUP:-}" = True ]; then
    /venv/bin/python /pgadmin4/setup.py load-servers "$servers" --user "$PGADMIN_DEFAULT_EMAIL" --replace
fi
exec /venv/bin/gunicorn --bind "0.0.0.0:$PGADMIN_LISTEN_PORT" --workers 1 --threads 25 --no-control-socket \
    --access-logfile "${GUNICORN_ACCESS_LOGFILE:--}" pgAdmin4:app
