#!/bin/sh
# Starts pgAdmin in its container: with our server in its list, which opens without asking for a password.
#
# How it works: the image reads a list of servers, but would copy a password file at its first start only. So both are
# written here, at every start, from the variables that compose.yaml gives; then this becomes the image's own program.
# pgAdmin looks for password files in its user's folder, and takes none that others could read.
#
# What belongs here: what a container's start adds to config_local.py. Natively it is `ops/stack/servers/pgadmin.py`.
set -eu
umask 077

# How pgAdmin names a user's folder.
own="$PGADMIN_DATA/storage/$(printf %s "$PGADMIN_DEFAULT_EMAIL" | tr @ _)"
mkdir -p "$own"
printf 'postgres:5432:*:%s:%s\n' "$POSTGRES_USER" "$POSTGRES_PASSWORD" > "$own/pgpass"

cat > "$PGADMIN_SERVER_JSON_FILE" <<END
{
  "Servers": {
    "1": {
      "Name": "project",
      "Group": "Servers",
      "Host": "postgres",
      "Port": 5432,
      "MaintenanceDB": "$POSTGRES_DB",
      "Username": "$POSTGRES_USER",
      "ConnectionParameters": {"sslmode": "prefer", "connect_timeout": 10, "passfile": "/pgpass"}
    }
  }
}
END

exec /entrypoint.sh "$@"
