"""Transactions: committed or nothing; every failure of PostgreSQL in our words, where it arises, in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from proxy import Proxy
from sqlalchemy import bindparam, func, literal, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

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
from project_database.sessions import Database, PoolObserver, PoolStatus, Query, copy_rows, open_database
from project_database.tables import City, Country


def country(**values: Any) -> Country:
    defaults = {"geonameid": 1, "code": "FR", "code3": "FRA", "numeric_code": 250, "name": "France"}
    return Country(**{**defaults, "continent": "EU", **values})


def city(**values: Any) -> City:
    defaults = {"geonameid": 1, "name": "Paris", "country_code": "FR", "latitude": 48.9, "longitude": 2.4}
    return City(**{**defaults, "timezone": "Europe/Paris", **values})


async def add(session: AsyncSession, row: object) -> None:
    session.add(row)
    await session.flush()


async def names(database: Database) -> list[str]:
    async with database.transaction() as session:
        return list(await session.scalars(select(City.name).order_by(City.geonameid)))


@pytest.fixture
async def france(database: Database) -> Database:
    async with database.transaction() as session:
        await add(session, country())
        await add(session, city())
    return database


async def test_the_end_of_the_block_commits(france: Database) -> None:
    assert await names(france) == ["Paris"]


async def test_a_block_that_raises_has_written_nothing(france: Database) -> None:
    class OwnError(Exception):
        pass

    with pytest.raises(OwnError):
        async with france.transaction() as session:
            await add(session, city(geonameid=2, name="Lyon"))
            raise OwnError
    assert await names(france) == ["Paris"]


async def test_other_errors_pass_unchanged(france: Database) -> None:
    for error in (OSError("of the caller"), TimeoutError("of the caller"), KeyError("of the caller")):
        with pytest.raises(type(error)) as raised:
            async with france.transaction() as session:
                await session.execute(text("SELECT 1"))
                raise error
        assert raised.value is error
    # A mistake in the program is no state of the database, and no client's.
    for mistake, kind in (("SELECT nothing FROM cities", ProgrammingError), ("SELECT 'x'::integer", DBAPIError)):
        with pytest.raises(kind):
            async with france.transaction() as session:
                await session.execute(text(mistake))
    for looked_for in (2**40, "x", "\ud83d"):
        with pytest.raises(DBAPIError):
            async with france.reading() as session:
                await session.execute(select(City.name).where(City.geonameid == looked_for))


def execute(statement: str) -> Callable[[AsyncSession], Awaitable[object]]:
    return lambda session: session.execute(text(statement))


def insert(row: Callable[..., object], **values: Any) -> Callable[[AsyncSession], Awaitable[object]]:
    return lambda session: add(session, row(**values))


VIOLATIONS = [
    (insert(country), AlreadyExists, "pk_countries"),
    (insert(country, geonameid=2), AlreadyExists, "uq_countries_code"),
    (insert(city, geonameid=2, country_code="XX"), ParentMissing, "fk_cities_country_code"),
    (execute("UPDATE cities SET country_code = 'XX'"), ParentMissing, "fk_cities_country_code"),
    (execute("DELETE FROM countries"), StillReferenced, "fk_cities_country_code"),
    (execute("UPDATE countries SET code = 'FX'"), StillReferenced, "fk_cities_country_code"),
    (
        execute("WITH new AS (UPDATE countries SET code = 'FX' RETURNING 1) SELECT 1"),
        StillReferenced,
        "fk_cities_country_code",
    ),
    (insert(city, geonameid=2, latitude=91), ConstraintViolated, "ck_cities_latitude"),
    (insert(city, geonameid=2, timezone=None), ConstraintViolated, None),
    (insert(city, geonameid=2**40), ConstraintViolated, None),
    (execute("UPDATE cities SET geonameid = 3000000000"), ConstraintViolated, None),
    (insert(city, geonameid=2, name="x" * 251), ConstraintViolated, None),
    (insert(city, geonameid=2, name="NUL \0"), ConstraintViolated, None),
    (insert(city, geonameid=2, name="half of a pair: \ud83d"), ConstraintViolated, None),
    (
        execute("WITH new AS (UPDATE cities SET population = 2 ^ 63 RETURNING 1) SELECT 1"),
        ConstraintViolated,
        None,
    ),
    (execute("SELECT * FROM nowhere"), NotMigrated, None),
    (execute("SELECT pg_sleep(5)"), LockTimeout, None),
    (
        execute("DO $$ BEGIN RAISE 'no' USING ERRCODE = 'serialization_failure'; END $$"),
        TransactionConflict,
        None,
    ),
    (execute("DO $$ BEGIN RAISE 'no' USING ERRCODE = 'admin_shutdown'; END $$"), DatabaseUnavailable, None),
    (execute("DO $$ BEGIN RAISE 'no' USING ERRCODE = 'disk_full'; END $$"), DatabaseUnavailable, None),
    (execute("SELECT pg_terminate_backend(pg_backend_pid())"), DatabaseUnavailable, None),
]


@pytest.mark.parametrize(("action", "kind", "constraint"), VIOLATIONS)
async def test_errors_are_ours_where_they_arise(
    france: Database,
    action: Callable[[AsyncSession], Awaitable[object]],
    kind: type[DatabaseError],
    constraint: str | None,
) -> None:
    arose = False
    with pytest.raises(DatabaseError) as raised:
        async with france.transaction() as session:
            try:
                await action(session)
            except kind:
                arose = True
                raise
    assert arose
    assert type(raised.value) is kind
    assert getattr(raised.value, "constraint", None) == constraint
    assert await names(france) == ["Paris"]


async def test_readers_begin_no_transaction(france: Database) -> None:
    async with france.reading() as session:
        first, second = [(await session.execute(select(func.now()))).scalar_one() for _ in range(2)]
        assert (await session.get_one(City, 1)).name == "Paris"
    assert first < second
    async with france.transaction() as session:
        first, second = [(await session.execute(select(func.now()))).scalar_one() for _ in range(2)]
    assert first == second
    for action, kind, _ in VIOLATIONS[-4:]:
        with pytest.raises(kind):
            async with france.reading() as session:
                await action(session)


async def test_a_query_needs_no_session(france: Database) -> None:
    named = Query(select(City.name, City.geonameid, literal("!")).where(City.name == bindparam("is")))
    (row,) = await france.read(named, {"is": "Paris"})
    assert tuple(row) == ("Paris", 1, "!")
    assert await france.read(named, {"is": "Lyon"}) == []
    with pytest.raises(asyncpg.DataError):  # the program's mistake, not the client's
        await france.read(named, {"is": 1})
    with pytest.raises(NotMigrated):
        await france.read(Query(select(text("1")).select_from(text("nowhere"))))
    with pytest.raises(LockTimeout):
        await france.read(Query(select(func.pg_sleep(60))))
    # What fails, and what is cancelled, gives its connection back.
    for _ in range(30):
        task = asyncio.ensure_future(france.read(Query(select(func.pg_sleep(60)))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await names(france) == ["Paris"]


async def test_a_savepoint_outlives_what_it_caught(france: Database) -> None:
    async with france.transaction() as session:
        try:
            async with session.begin_nested():
                await add(session, city(name="Taken"))
        except AlreadyExists:
            await add(session, city(geonameid=2, name="Lyon"))
    assert await names(france) == ["Paris", "Lyon"]


async def test_messages_hold_no_address_no_statement_and_no_value(france: Database) -> None:
    for action, _, _ in VIOLATIONS:
        with pytest.raises(DatabaseError) as raised:
            async with france.transaction() as session:
                await action(session)
        assert not [
            word for word in ("SELECT", "INSERT", "127.0.0.1", "Paris", "geonameid") if word in str(raised.value)
        ]


async def test_of_two_crossed_transactions_one_is_to_be_repeated(france: Database) -> None:
    async with france.transaction() as session:
        await add(session, city(geonameid=2, name="Lyon"))

    async def rename(first: int, second: int, both: asyncio.Barrier) -> None:
        async with france.transaction() as session:
            await session.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
            await session.execute(update(City).where(City.geonameid == first).values(name="Crossed"))
            await both.wait()
            await session.execute(update(City).where(City.geonameid == second).values(name="Crossed"))

    both = asyncio.Barrier(2)
    ends = await asyncio.gather(rename(1, 2, both), rename(2, 1, both), return_exceptions=True)
    assert [type(end) for end in sorted(ends, key=str)] == [type(None), TransactionConflict]
    assert await names(france) == ["Crossed", "Crossed"]


async def test_a_held_lock_ends_the_wait_in_time(france: Database) -> None:
    async with france.transaction() as holder:
        await holder.execute(text("LOCK TABLE cities IN ACCESS EXCLUSIVE MODE"))
        started = time.monotonic()
        with pytest.raises(LockTimeout):
            await names(france)
        assert 0.25 < time.monotonic() - started < 0.6


async def test_a_full_pool_refuses_in_time_and_stays_in_its_bounds(france: Database) -> None:
    counted = select(func.count()).select_from(text("pg_stat_activity")).where(text("application_name = 'tests'"))
    async with france.transaction() as first, france.transaction() as second:
        await first.execute(text("SELECT 1"))
        mine = counted.where(text("datname = current_database()"))
        assert await second.scalar(mine) == 2
        started = time.monotonic()
        with pytest.raises(PoolExhausted):
            await names(france)
        assert 0.15 < time.monotonic() - started < 0.5
    assert await names(france) == ["Paris"]


class Witness(PoolObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.timeouts = 0

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def timed_out(self) -> None:
        self.timeouts += 1


async def test_waits_for_a_connection_are_told(address: str) -> None:
    witness = Witness()
    options: dict[str, Any] = {"timeout": 2, "pool_size": 1, "pool_timeout": 0.2, "observer": witness}
    async with open_database(address, application_name="tests", **options) as database:
        assert database.pool_status() == PoolStatus(used=0, idle=0)
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            assert database.pool_status() == PoolStatus(used=1, idle=0)
            with pytest.raises(PoolExhausted):
                await names(database)
        assert database.pool_status() == PoolStatus(used=0, idle=1)
        await names(database)
        await database.read(Query(select(text("1"))))
    assert witness.timeouts == 1
    making, waiting, none, without_session = witness.waits
    assert 0 <= without_session < waiting
    assert 0 < making < 2
    assert 0.15 < waiting < 1
    assert 0 <= none < waiting


async def test_a_session_without_a_statement_takes_no_connection(france: Database) -> None:
    async with france.transaction(), france.transaction(), france.transaction():
        assert await names(france) == ["Paris"]


async def test_connections_closed_at_rest_are_replaced(france: Database, address: str) -> None:
    async with france.transaction() as first, france.transaction() as second:
        pids = [await session.scalar(select(func.pg_backend_pid())) for session in (first, second)]
    driver = await asyncpg.connect(address)
    for pid in pids:
        await driver.execute("SELECT pg_terminate_backend($1, 2000)", pid)
    await driver.close()
    assert await names(france) == ["Paris"]
    assert await names(france) == ["Paris"]


async def test_a_cancelled_transaction_is_undone_and_its_statement_ended(france: Database) -> None:
    async with open_with_patience(france) as patient:
        started = asyncio.Event()

        async def work() -> None:
            async with patient.transaction() as session:
                await add(session, city(geonameid=2, name="Lyon"))
                started.set()
                await session.execute(text("SELECT pg_sleep(60)"))

        working = asyncio.create_task(work())
        await started.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert await names(patient) == ["Paris"]
        async with patient.transaction() as session:
            left = await session.scalar(
                select(func.count())
                .select_from(text("pg_stat_activity"))
                .where(text("query = 'SELECT pg_sleep(60)'"))
            )
        assert left == 0


@asynccontextmanager
async def open_with_patience(database: Database) -> AsyncIterator[Database]:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    async with open_database(url, application_name="tests", timeout=2, statement_timeout=90) as patient:
        yield patient


async def test_the_server_knows_its_client_and_its_limits(database: Database) -> None:
    shown = {}
    async with database.transaction() as session:
        for setting in ("application_name", "lock_timeout", "statement_timeout", "pg_trgm.similarity_threshold"):
            shown[setting] = await session.scalar(text(f"SHOW {setting}"))
    assert shown == {
        "application_name": "tests",
        "lock_timeout": "300ms",
        "statement_timeout": "600ms",
        "pg_trgm.similarity_threshold": "0.3",
    }


@pytest.mark.parametrize("change", [{"port": 1}, {"password": "wrong"}, {"database": "nowhere"}])
async def test_a_server_that_refuses_is_unavailable(database: Database, change: dict[str, Any]) -> None:
    url = database.engine.url.set(drivername="postgresql", **change).render_as_string(hide_password=False)
    async with open_database(url, application_name="tests", timeout=2) as wrong:
        with pytest.raises(DatabaseUnavailable, match="refused or dropped"):
            await wrong.ping()
        with pytest.raises(DatabaseUnavailable, match="refused or dropped"):
            async with wrong.transaction() as session:
                await session.execute(text("SELECT 1"))


COLUMNS = ["geonameid", "name", "country_code", "latitude", "longitude", "timezone"]


async def test_rows_are_copied_in_the_transaction(france: Database) -> None:
    rows = [(number, f"City {number}", "FR", 1.0, 1.0, "Europe/Paris") for number in range(2, 5)]
    async with france.transaction() as session:
        assert await copy_rows(session, "cities", COLUMNS, rows) == 3
    assert len(await names(france)) == 4
    with pytest.raises(AlreadyExists):
        async with france.transaction() as session:
            await copy_rows(session, "cities", COLUMNS, [(9, "City 9", "FR", 1.0, 1.0, "Europe/Paris"), rows[0]])
    with pytest.raises(KeyError):
        async with france.transaction() as session:
            await copy_rows(session, "cities", COLUMNS, [(9, "City 9", "FR", 1.0, 1.0, "Europe/Paris")])
            raise KeyError
    assert len(await names(france)) == 4


@pytest.fixture
async def proxied(address: str) -> AsyncIterator[tuple[Database, Proxy]]:
    """A database behind a network that can fall silent; a statement is given up after 0.5 s."""
    async with (
        Proxy.to(address) as proxy,
        open_database(
            proxy.url, application_name="tests", timeout=0.3, pool_size=2, lock_timeout=0.2, statement_timeout=0.2
        ) as database,
    ):
        yield database, proxy


async def reads(session: AsyncSession, proxy: Proxy) -> None:
    proxy.fall_silent()
    await session.execute(text("SELECT 1"))


async def flushes(session: AsyncSession, proxy: Proxy) -> None:
    proxy.fall_silent()
    await add(session, country(geonameid=7, code="XX", code3="XXX"))


async def copies(session: AsyncSession, proxy: Proxy) -> None:
    def rows() -> Iterator[tuple[object, ...]]:
        proxy.fall_silent()
        yield (9, "City 9", "FR", 1.0, 1.0, "Europe/Paris")

    await copy_rows(session, "cities", COLUMNS, rows())


async def raises(session: AsyncSession, proxy: Proxy) -> None:
    proxy.fall_silent()
    raise KeyError("rolled back on a silent connection")


async def ends(session: AsyncSession, proxy: Proxy) -> None:
    """The commit is what meets the silence."""
    proxy.fall_silent()


@pytest.mark.parametrize("action", [reads, flushes, copies, raises, ends])
async def test_a_silent_server_is_given_up_in_time(
    proxied: tuple[Database, Proxy], action: Callable[[AsyncSession, Proxy], Awaitable[None]]
) -> None:
    database, proxy = proxied
    started = 0.0
    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            started = time.monotonic()
            await action(session, proxy)
    assert 0.45 < time.monotonic() - started < 0.9
    # A new connection is as silent: 0.3 s.
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="in time"):
        async with database.reading() as session:
            await session.execute(text("SELECT 1"))
    assert time.monotonic() - started < 0.6
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as raised:
        await database.ping()
    assert isinstance(raised.value.__cause__, TimeoutError)
    assert time.monotonic() - started < 0.6
    proxy.go_on()
    await database.ping()


async def test_a_silent_server_does_not_keep_the_process_from_ending(address: str) -> None:
    async with Proxy.to(address) as proxy:
        async with open_database(proxy.url, application_name="tests", timeout=0.5) as database:
            await database.ping()
            proxy.fall_silent()
            started = time.monotonic()
        assert time.monotonic() - started < 1
