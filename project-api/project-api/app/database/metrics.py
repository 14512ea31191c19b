"""What is measured of PostgreSQL as this process uses it: its pool (`db_client_connection_*`), and the outbox.

How it works: the pool tells `DatabaseMetrics` how long transactions wait for a connection, and is asked for its
connections when somebody scrapes. The outbox is looked at every few seconds; what is not known, because
PostgreSQL is away or was not asked yet, is shown as NaN, which no alert takes for a number. Every process shows
the same outbox: take the maximum.

What belongs here: these figures.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.core.metrics import LATENCIES
from app.database.outbox import Outbox
from project_database.sessions import Database, PoolObserver

logger = logging.getLogger("app.metrics")

POOL = "project-api"
"""The pool's name: as in `pg_stat_activity`."""

OUTBOX_INTERVAL = 5.0
"""s between two looks at the outbox: as often as it is scraped."""


class DatabaseMetrics(PoolObserver):
    """Counts what the pool tells."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Gauge(
            "db_client_connection_count",
            "Connections to PostgreSQL, by whether a transaction has them: used, or idle.",
            ("pool", "state"),
            registry=registry,
        )
        self._max = Gauge(
            "db_client_connection_max", "The most connections that the pool makes.", ("pool",), registry=registry
        )
        wait_time = Histogram(
            "db_client_connection_wait_time_seconds",
            "Transactions' waits for a connection; making it is part of the wait.",
            ("pool",),
            buckets=LATENCIES,
            registry=registry,
        )
        timeouts = Counter(
            "db_client_connection_timeouts",
            "Transactions for which no connection became free in time.",
            ("pool",),
            registry=registry,
        )
        self._wait_time = wait_time.labels(POOL)
        self._timeouts = timeouts.labels(POOL)
        messages = Gauge(
            "outbox_messages",
            "Messages in the outbox: waiting to be sent, or set_aside because they never can be.",
            ("state",),
            registry=registry,
        )
        self._waiting = messages.labels("waiting")
        self._set_aside = messages.labels("set_aside")
        self._oldest = Gauge(
            "outbox_oldest_message_age_seconds",
            "How long the oldest message that waits in the outbox has done so; 0 for none.",
            registry=registry,
        )
        self._show_unknown()

    def waited(self, seconds: float) -> None:
        """See `PoolObserver`."""
        self._wait_time.observe(seconds)

    def timed_out(self) -> None:
        """See `PoolObserver`."""
        self._timeouts.inc()

    @contextlib.asynccontextmanager
    async def watching(self, database: Database, *, pool_size: int) -> AsyncIterator[None]:
        """Show this database's pool, and look at its outbox meanwhile.

        Args:
            database: whose pool tells this object how long transactions wait.
            pool_size: the most connections it makes.
        """
        self._max.labels(POOL).set(pool_size)
        pool = database.pool_status
        self._count.labels(POOL, "used").set_function(lambda: pool().used)
        self._count.labels(POOL, "idle").set_function(lambda: pool().idle)
        watcher = asyncio.create_task(self._keep_watching(database), name="outbox metrics")
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _keep_watching(self, database: Database) -> None:
        while True:
            try:
                async with database.reading() as session:
                    backlog = await Outbox(session).backlog()
            except Exception as error:  # whatever it was: the next look may go well
                logger.debug("cannot look at the outbox: %s", error)
                self._show_unknown()
            else:
                self._show(backlog.waiting, backlog.set_aside, backlog.oldest)
            await asyncio.sleep(OUTBOX_INTERVAL)

    def _show_unknown(self) -> None:
        self._show(math.nan, math.nan, math.nan)

    def _show(self, waiting: float, set_aside: float, oldest: float) -> None:
        self._waiting.set(waiting)
        self._set_aside.set(set_aside)
        self._oldest.set(oldest)
