"""pgAdmin's options: the database on a page, for everybody who has the login.

Role: the seed's page for PostgreSQL; called by people's browsers.

How it works: pgAdmin reads this file from its own folder, after its defaults. It remembers users, servers and
settings in one SQLite file.

What belongs here: what holds in every start mode. The folder of its data comes from the environment
(`PGADMIN_DATA`), see `ops/stack/servers/pgadmin.py`.
"""

import os
from pathlib import Path

SERVER_MODE = True  # a login, and no access to files but a user's own folder

_DATA = Path(os.environ["PGADMIN_DATA"])
DATA_DIR = str(_DATA)
SQLITE_PATH = str(_DATA / "pgadmin4.db")
SESSION_DB_PATH = str(_DATA / "sessions")
STORAGE_DIR = str(_DATA / "storage")
KERBEROS_CCACHE_DIR = str(_DATA / "krbccache")
AZURE_CREDENTIAL_CACHE_DIR = str(_DATA / "azurecredentialcache")
LOG_FILE = str(_DATA / "pgadmin4.log")

MASTER_PASSWORD_REQUIRED = False  # it would be asked for before a connection opens
UPGRADE_CHECK_ENABLED = False  # versions are those of requirements.lock
SHOW_GRAVATAR_IMAGE = False  # asks another host about the login's address
# Nothing is before it that could be trusted about where a request came from.
PROXY_X_FOR_COUNT = PROXY_X_PROTO_COUNT = PROXY_X_HOST_COUNT = PROXY_X_PORT_COUNT = PROXY_X_PREFIX_COUNT = 0
