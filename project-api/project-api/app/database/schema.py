"""Is the database's schema the one that this code was written for?

How it works: migrations are numbered, and their files begin with their number (`migrations/versions/0001_….py`).
The highest one is what the code expects. A database that is ahead is fine: a migration leaves room for the code
before it, which is still running in another replica.

What belongs here: that comparison. Migrations themselves are Alembic's.
"""

from pathlib import Path

from sqlalchemy import text

from project_database.errors import NotMigrated
from project_database.sessions import Database

_MIGRATIONS = Path(__file__).parents[2] / "migrations" / "versions"

HEAD = max(path.name.partition("_")[0] for path in _MIGRATIONS.glob("*.py"))
"""The revision that the code expects."""

_REVISION = text("SELECT version_num FROM alembic_version")


async def check_schema(database: Database) -> None:
    """Ask the database for its revision, in time.

    Raises:
        NotMigrated: there is no schema, or an older one.
        DatabaseUnavailable: there was no answer.
    """
    revisions = [row.version_num for row in await database.ping(_REVISION)]
    if not revisions or max(revisions) < HEAD:
        raise NotMigrated
