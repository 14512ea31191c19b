"""How both projects open a transaction, and what they hear when it goes wrong.

How it works: one engine per process (per event loop). Its pool never grows beyond `pool_size`, so a process never
has more connections than that. A connection is handed out when the first statement needs it; one that PostgreSQL
has closed meanwhile is replaced then, which the socket tells without asking (SQLAlchemy's `pool_pre_ping` would
cost three round trips a transaction). Errors become ours where they arise, in the engine's `handle_error`: a
repository may catch `AlreadyExists` at its flush, and nobody meets SQLAlchemy's or the driver's.

Time: PostgreSQL itself ends a statement that waits for a lock or runs too long. The driver waits a little longer
than that, so when it gives up the server is silent (frozen, unplugged). Whatever is asked of such a connection,
a rollback too, would wait once more: it is thrown away at once.

What belongs here: engine, pool, transaction scope, translation of errors. Queries belong to repositories.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import Executable, Row, SelectBase, event, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn

from project_database.errors import (
    AlreadyExists,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    LockTimeout,
    NotMigrated,
    ParentMissing,
    PoolExhausted,
    StillReferenced,
    TransactionConflict,
)

_MARGIN = 0.3
"""How much longer than the server the driver waits for the end of a statement, in s."""

_NOTHING = text("SELECT 1")

_DRIVERS_OWN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Query:
    """A query that is made once and run often, with other values each time, by the driver itself.

    SQLAlchemy's part in running a statement costs more than all that the driver does. It has written the SQL
    when the query is made; its pool hands out the connection; what is between is left out.

    Attributes:
        sql: as PostgreSQL takes it.
    """

    def __init__(self, statement: SelectBase) -> None:
        """Write the SQL.

        Args:
            statement: with a `bindparam` for each value that differs; of types that need no conversion.
        """
        compiled = statement.compile(dialect=asyncpg_dialect())  # type: ignore[no-untyped-call]
        self.sql = str(compiled)
        self._names: Sequence[str] = compiled.positiontup or ()
        self._constants = compiled.params

    def arguments(self, values: Mapping[str, object]) -> Sequence[object]:
        """Return what `sql` takes, in its order."""
        known = {**self._constants, **values}
        return [known[name] for name in self._names]


class PoolStatus(NamedTuple):
    """How many connections are with transactions, and how many wait for one."""

    used: int
    idle: int


class PoolObserver:
    """Is told how long transactions wait for their connections, and does nothing: subclass it to measure.

    It is called in the way of every transaction: it must be quick, and must not raise.
    """

    def waited(self, seconds: float) -> None:
        """A transaction has waited so long for a connection, in s, with or without success."""

    def timed_out(self) -> None:
        """No connection became free in time."""


NOBODY = PoolObserver()
"""Looks at nothing."""


class Database:
    """PostgreSQL as one process sees it.

    Attributes:
        engine: for what needs a connection of its own. Its errors are ours as well.
    """

    def __init__(self, engine: AsyncEngine, timeout: float) -> None:
        """Take over an engine of `open_database`."""
        self.engine = engine
        self._timeout = timeout  # s
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)
        self._readers = async_sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"))
        self._cleaning_up: set[asyncio.Future[Sequence[Row[Any]]]] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Open a session for one transaction: committed at the end of the block, rolled back when it raises.

        Raises:
            DatabaseError: from the statement at fault, or from the end of the block. An unavailable database at
                the end leaves it open whether the transaction was committed.
        """
        with translate():
            async with self._sessions.begin() as session:
                yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """Open a session that only reads: each statement is a transaction of its own.

        It sees what it would see in one that is READ COMMITTED, PostgreSQL's default, for a third of the round
        trips: no BEGIN, no COMMIT. What lasts until the end of a transaction (a lock, a local setting) does not
        outlast its statement.

        Raises:
            DatabaseError: as in `transaction`.
        """
        with translate():
            async with self._readers() as session:
                yield session

    async def read(self, query: Query, values: Mapping[str, object] | None = None) -> Sequence[asyncpg.Record]:
        """Run one query, as a session of `reading` would, and return its rows: columns, no objects.

        Raises:
            DatabaseError: as in `transaction`.
        """
        with translate():
            return await greenlet_spawn(self._read, query.sql, query.arguments(values or {}))

    def _read(self, sql: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        connection = self.engine.sync_engine.raw_connection()
        driver: Any = connection.driver_connection
        try:
            rows: Sequence[asyncpg.Record] = await_only(driver.fetch(sql, *arguments))
        except BaseException as error:
            ours = _in_our_words(error, sql)
            # Silent, gone, or cancelled before it has answered: what it would say next is for nobody.
            if ours is None or _is_gone(ours):
                driver.terminate()
            if ours is None:
                raise
            raise ours from error
        else:
            return rows
        finally:
            connection.close()

    def pool_status(self) -> PoolStatus:
        """Return how many connections there are just now. From any thread."""
        pool = self.engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)  # noqa: S101  # `open_database` has made it
        return PoolStatus(used=pool.checkedout(), idle=pool.checkedin())

    async def ping(self, statement: Executable = _NOTHING) -> Sequence[Row[Any]]:
        """Ask a small question, in time, and return its answer's rows.

        Raises:
            DatabaseUnavailable: PostgreSQL refused, failed, or did not answer within the time-out.
        """
        probe = asyncio.ensure_future(self._probe(statement))
        # Not `asyncio.timeout`: a cancelled query is first cleaned up, which a frozen server delays as well. The
        # answer does not wait for that.
        done, _ = await asyncio.wait({probe}, timeout=self._timeout)
        if not done:
            probe.cancel()
            self._cleaning_up.add(probe)
            probe.add_done_callback(self._cleaned_up)
            raise DatabaseUnavailable(f"PostgreSQL did not answer within {self._timeout:g} s") from TimeoutError()
        return probe.result()

    async def _probe(self, statement: Executable) -> Sequence[Row[Any]]:
        async with self.reading() as session:
            return (await session.execute(statement)).all()

    def _cleaned_up(self, probe: asyncio.Future[Sequence[Row[Any]]]) -> None:
        self._cleaning_up.discard(probe)
        if not probe.cancelled():
            probe.exception()  # seen: the caller has been told already


@asynccontextmanager
async def open_database(
    url: str,
    *,
    application_name: str,
    timeout: float,  # noqa: ASYNC109  # of what it opens, not of the call
    pool_size: int = 10,
    pool_timeout: float = 1.0,
    lock_timeout: float = 2.0,
    statement_timeout: float = 5.0,
    observer: PoolObserver = NOBODY,
    traced: bool = False,
) -> AsyncIterator[Database]:
    """Make the engine, close its connections at the end. Nothing is opened until the first use.

    Args:
        url: `postgresql://…`, without a driver.
        application_name: who is seen in `pg_stat_activity`.
        timeout: for one connection to be made, and for `ping`, in s.
        pool_size: the most connections at a time.
        pool_timeout: how long a transaction waits for one to be free, in s.
        lock_timeout: how long a statement waits for a lock, in s.
        statement_timeout: how long a statement runs, in s; a COPY is one statement.
        observer: is told how long transactions wait for their connections.
        traced: whether statements become spans, which needs OpenTelemetry (`tracing.py`).
    """

    async def connect(*args: Any, **kwargs: Any) -> "asyncpg.Connection[asyncpg.Record]":
        with translate(OSError, TimeoutError):
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(*args, **kwargs)
        if spans is not None:
            connection.add_query_logger(spans.told_by_driver)
        return connection

    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1),
        poolclass=_pool_observed_by(observer),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout,
        hide_parameters=True,  # a client's data, or a secret, in a log
        connect_args={
            "async_creator_fn": connect,
            "timeout": timeout,
            "command_timeout": statement_timeout + _MARGIN,
            "server_settings": {
                "application_name": application_name,
                "lock_timeout": _milliseconds(lock_timeout),
                "statement_timeout": _milliseconds(statement_timeout),
                # The driver's own queries on types look expensive to the planner and are not (asyncpg's FAQ).
                "jit": "off",
                # What a search takes for similar, whatever the server's own setting: pg_trgm's default.
                "pg_trgm.similarity_threshold": "0.3",
            },
        },
    )
    spans = None
    if traced:
        from project_database.tracing import StatementSpans  # needs OpenTelemetry

        spans = StatementSpans(engine.sync_engine)
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    event.listen(engine.sync_engine, "handle_error", _translate_in_engine)
    try:
        yield Database(engine, timeout)
    finally:
        event.listen(engine.sync_engine, "close", _hang_up)
        await engine.dispose()


@contextmanager
def translate(*more: type[Exception]) -> Iterator[None]:
    """Raise what the driver or the pool raises in our words.

    Args:
        more: what else means that PostgreSQL is out of reach: `OSError`, `TimeoutError`, around a block in which
            nothing else can raise them.
    """
    try:
        yield
    except (*_DRIVERS_OWN, NoConnectionFree, *more) as error:
        ours = _in_our_words(error)
        if ours is None:
            raise
        raise ours from error


async def copy_rows(
    session: AsyncSession,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]] | AsyncIterable[Sequence[object]],
) -> int:
    """COPY rows into a table, in the session's transaction; return how many.

    It is one statement, with one statement's time: send a long stream in pieces.

    Args:
        session: whose transaction it is.
        table: the table's name; a temporary one is found as well.
        columns: the columns' names, in the rows' order.
        rows: a value of the column's type for each; COPY casts nothing. They are at hand: an
            async iterable may give others their turn, but while the driver waits for it nobody looks at the time.

    Raises:
        DatabaseError: as any statement does.
    """
    connection = await session.connection()
    driver: asyncpg.Connection[asyncpg.Record] = (await connection.get_raw_connection()).driver_connection
    # SQLAlchemy's BEGIN comes with its first statement, and this one is not its own.
    await connection.execute(text("SELECT 1"))
    try:
        status = await driver.copy_records_to_table(table, records=rows, columns=columns)
    except (*_DRIVERS_OWN, TimeoutError) as error:
        ours = _in_our_words(error, f"COPY {table}")
        if isinstance(error, TimeoutError):
            driver.terminate()
        if ours is None:
            raise
        raise ours from error
    return int(status.removeprefix("COPY "))


def _pool_observed_by(observer: PoolObserver) -> type[AsyncAdaptedQueuePool]:
    """Return SQLAlchemy's own pool for asyncio; its events begin only when a connection is there."""

    class ObservedPool(AsyncAdaptedQueuePool):
        def connect(self) -> PoolProxiedConnection:
            started = time.perf_counter()
            try:
                return super().connect()
            except NoConnectionFree:
                observer.timed_out()
                raise
            finally:
                observer.waited(time.perf_counter() - started)

    return ObservedPool


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _hang_up(connection: Any, _record: object) -> None:
    """Close a connection at rest without saying goodbye, which a silent server would not answer."""
    connection.driver_connection.terminate()


def _replace_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool make a new connection for one that the server has closed."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _translate_in_engine(context: ExceptionContext) -> None:
    error = context.original_exception
    cause = error.driver_exception if isinstance(error, EmulatedDBAPIException) else error
    ours = _in_our_words(cause, context.statement or "")
    if ours is None:
        return
    if _is_gone(ours):
        _throw_away(context)
    raise ours from cause


def _is_gone(error: DatabaseError) -> bool:
    return isinstance(error, DatabaseUnavailable) and not isinstance(error, LockTimeout)


def _throw_away(context: ExceptionContext) -> None:
    """Drop the connection without a word to the server, which might never answer."""
    context.is_disconnect = True
    context.invalidate_pool_on_disconnect = False  # each of the others speaks for itself
    if context.connection is not None and not context.connection.invalidated:
        driver = context.connection.connection.driver_connection
        assert driver is not None  # noqa: S101  # a connection that was in use
        driver.terminate()


def _in_our_words(error: BaseException, statement: str = "") -> DatabaseError | None:
    """Return our error for one of the driver's or the pool's; None for what is a mistake in the program.

    Args:
        error: the driver's or the pool's.
        statement: the SQL at fault. A value that does not fit is the client's where it is written, and the
            program's where it is looked for.
    """
    constraint = getattr(error, "constraint_name", None)
    match error:
        case NoConnectionFree():
            return PoolExhausted("every connection to PostgreSQL is busy")
        case asyncpg.UniqueViolationError():
            return AlreadyExists("a row with this key exists", constraint=constraint)
        case asyncpg.ForeignKeyViolationError() if not _takes_away(statement, error.table_name):
            return ParentMissing("a row that this one refers to does not exist", constraint=constraint)
        case asyncpg.ForeignKeyViolationError() | asyncpg.RestrictViolationError():
            return StillReferenced("other rows refer to this one", constraint=constraint)
        case asyncpg.IntegrityConstraintViolationError():
            return ConstraintViolated("a value breaks a rule of the database", constraint=constraint)
        case asyncpg.DataError() if re.match(r"\s*(INSERT|UPDATE|DELETE|WITH|COPY)\b", statement, re.IGNORECASE):
            return ConstraintViolated("a value does not fit its column", constraint=None)
        case (
            asyncpg.SerializationError() | asyncpg.DeadlockDetectedError() | asyncpg.InvalidCachedStatementError()
        ):
            return TransactionConflict("the transaction met another one and was undone; send it again")
        case asyncpg.LockNotAvailableError() | asyncpg.QueryCanceledError():
            return LockTimeout("PostgreSQL ended a statement that waited or ran too long")
        case asyncpg.UndefinedTableError():
            return NotMigrated()
        case TimeoutError():
            return DatabaseUnavailable("PostgreSQL did not answer in time")
        case (
            asyncpg.PostgresConnectionError()
            | asyncpg.OperatorInterventionError()
            | asyncpg.InsufficientResourcesError()
            | asyncpg.InvalidAuthorizationSpecificationError()
            | asyncpg.InvalidCatalogNameError()
            | asyncpg.ReadOnlySQLTransactionError()
            | asyncpg.InternalClientError()  # used while the server's goodbye was being read
            | OSError()
        ):
            return DatabaseUnavailable("PostgreSQL refused or dropped the connection")
        case asyncpg.InterfaceError() if "is closed" in str(error):
            return DatabaseUnavailable("PostgreSQL refused or dropped the connection")
        case _:
            return None


def _takes_away(statement: str, referring: str | None) -> bool:
    """Return whether a statement that breaks a foreign key deletes or changes what other rows refer to.

    Otherwise it writes a row that refers to nothing. PostgreSQL tells the two apart in the words of its message
    only, which it may have translated; it names the table whose foreign key it is, `referring`, in both.
    """
    writes = re.search(r"\b(?:INSERT INTO|UPDATE|(DELETE) FROM) +(\w+)", statement, re.IGNORECASE)
    return writes is not None and (writes[1] is not None or writes[2] != referring)
