#!/bin/sh
# What docker-entrypoint.sh of the official redis image does, as far as compose.yaml uses it, which starts a shell as
# redis: nothing but to become that command.
exec "$@"
