#!/bin/sh
# What docker-entrypoint.sh of the official redis image does: an option or a configuration file alone is
# redis-server's, and root becomes redis, who owns the data.
set -e

if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then set -- redis-server "$@"; fi
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
    find . \! -user redis -exec chown redis '{}' +
    exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi
# In the official image "protected mode" is off: there, only published ports can be reached.
if [ "$1" = redis-server ]; then set -- "$@" --protected-mode no; fi
exec "$@"
