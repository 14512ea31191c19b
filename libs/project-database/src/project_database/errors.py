"""What can go wrong with PostgreSQL, in our own words.

    DatabaseError
    ├── DatabaseUnavailable      no answer in time, refused, dropped: ask again
    │   ├── PoolExhausted        every connection of this process is busy
    │   ├── LockTimeout          a lock or a statement took too long
    │   └── NotMigrated          the schema is missing, or older than the code
    ├── TransactionConflict      serialization failure or deadlock: the whole transaction may be repeated
    ├── ConstraintViolated       a check, a missing value
    │   ├── AlreadyExists        a unique key is taken
    │   ├── ParentMissing        what a foreign key names does not exist
    │   └── StillReferenced      other rows name what is to be deleted

How it works: `sessions.py` translates SQLAlchemy's and the driver's exceptions; nobody above it knows those.
Messages are safe to show: no address, no credential, no SQL.

What belongs here: the tree, and the facts that each carries.
"""


class DatabaseError(Exception):
    """Root of all errors of this library."""


class DatabaseUnavailable(DatabaseError):  # noqa: N818  # a state, and the name is what is read in the log
    """PostgreSQL refused, dropped the connection or did not answer in time."""


class PoolExhausted(DatabaseUnavailable):
    """No connection of this process became free in time."""


class LockTimeout(DatabaseUnavailable):
    """A lock that somebody else holds, or a statement, took longer than allowed."""


class NotMigrated(DatabaseUnavailable):
    """The schema is missing, or older than the code: nothing goes on until somebody migrates."""

    def __init__(self) -> None:
        super().__init__("the database is not migrated: run `alembic upgrade head` in project-api")


class TransactionConflict(DatabaseError):  # noqa: N818
    """The transaction met another one (serialization failure, deadlock) and was undone: repeat it as a whole."""


class ConstraintViolated(DatabaseError):  # noqa: N818
    """What was to be written breaks a rule of the schema.

    Attributes:
        constraint: its name, as in `tables.py`; None where PostgreSQL names none.
    """

    def __init__(self, message: str, *, constraint: str | None) -> None:
        super().__init__(message)
        self.constraint = constraint


class AlreadyExists(ConstraintViolated):
    """A row with this key exists."""


class ParentMissing(ConstraintViolated):
    """A row that is referred to does not exist."""


class StillReferenced(ConstraintViolated):
    """Other rows refer to the row that is to be deleted."""
