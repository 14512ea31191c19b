"""Tasks that are committed with data: sent when the data is committed, whatever breaks, and never otherwise.

Rows P14 and P15 of the fault matrix. The oracle: a trigger of the test's own writes each message's id down in the
transaction that adds it, so what is accepted is what was committed, and nothing else. The worker notes every run;
what it does in the database is the real worker's, through the inbox.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from uuid import uuid4

import database
import httpx
import pytest
import redis
from faults import scaled
from processes import Api, Worker, running_api, wait_until
from proxy import Proxy, proxy_to

from app.database.listening import APPLICATION_NAME
from app.database.outbox import LONGEST_SILENCE, Outbox
from app.relay import BATCH, SWEEP_INTERVAL
from project_contracts.countries import COUNTRY_STATISTICS, CountryStatisticsPayload
from project_database.sessions import Database, open_database

CODES = map("".join, itertools.product(ascii_uppercase, repeat=2))
"""A country for each test: what is left over of an earlier one is about another."""

NUMBERS = itertools.count(1)


class Committed:
    """What was committed to be sent about a country, and what became of it."""

    def __init__(self, worker: Worker) -> None:
        self.country, self._code = next(NUMBERS), next(CODES)
        self.payload = CountryStatisticsPayload(country_code=self._code)
        self._executions = worker.executions(self._code)
        database.run(
            "INSERT INTO countries (geonameid, code, code3, numeric_code, name, continent) "
            "VALUES ($1, $2, 'FRA', 250, 'France', 'EU')",
            self.country,
            self._code,
        )

    def write_city(self, http: httpx.Client) -> httpx.Response:
        """Write one of its cities, and so a message."""
        city = {
            "geonameid": next(NUMBERS),
            "name": "Lyon",
            "country_code": self._code,
            "latitude": 45.7,
            "longitude": 4.8,
            "timezone": "Europe/Paris",
        }
        return http.post("/v1/cities", json=city)

    def put_city(self, api: Api) -> None:
        with httpx.Client(base_url=api.url) as http:
            assert self.write_city(http).status_code == 201

    async def add(self, outbox: Outbox) -> None:
        """Add a message by itself."""
        await outbox.add(str(uuid4()), COUNTRY_STATISTICS, self.payload)

    def ids(self) -> set[str]:
        return {str(row["id"]) for row in database.run("SELECT id FROM committed")}

    def runs(self) -> list[str]:
        """The ids of all runs, in their order."""
        return [run.task_id for run in self._executions.executions()]

    def all_ran(self) -> bool:
        return self.ids() <= set(self.runs())

    def waiting(self) -> int:
        """How many messages are in the outbox."""
        return int(database.run("SELECT count(*) FROM outbox")[0]["count"])

    def refreshes(self) -> int:
        """How often the effect has happened."""
        counted = database.run("SELECT refreshes FROM country_statistics WHERE country_code = $1", self._code)
        return sum(row["refreshes"] for row in counted)

    def wait_for_runs(self, count: int) -> None:
        wait_until(lambda: len(self.runs()) >= count, 10, f"{count} runs")

    def forget_results(self) -> None:
        """Have Redis lose what has ended, as it may lose its last second; else it would not run again."""
        keys = [f"celery-task-meta-{task_id}" for task_id in self.ids()]
        with redis.Redis(
            host=os.environ["REDIS_HOST"],
            port=int(os.environ["REDIS_PORT"]),
            password=os.environ["REDIS_PASSWORD"],
            db=int(os.environ["REDIS_DB"]),
        ) as results:
            wait_until(lambda: results.exists(*keys) == len(keys), 10, "all have ended")
            results.delete(*keys)

    def judge(self, row: str, *, extra: int) -> None:
        """Wait for the end: nothing is lost, at most `extra` runs were too many, each effect is there once."""
        wait_until(lambda: not self.waiting() and self.all_ran(), 20, "all is sent, and has run")
        ids = self.ids()
        wait_until(lambda: self.refreshes() == len(ids), 10, f"{self.refreshes()} of {len(ids)} effects")
        runs = self.runs()
        print(
            f"{row}: accepted {len(ids)}, lost {len(ids - set(runs))}, duplicated {len(runs) - len(set(runs))} "
            f"(allowed {extra}), effects {self.refreshes()}, unexpected {len(set(runs) - ids)}"
        )
        assert set(runs) == ids
        assert len(runs) - len(ids) <= extra
        assert self.refreshes() == len(ids)


@pytest.fixture
def committed(worker: Worker, clean_tables: None) -> Iterator[Committed]:
    with database.noted_messages():
        yield Committed(worker)


@dataclass(frozen=True, kw_only=True)
class Proxied:
    """An API whose broker is behind a proxy."""

    api: Api
    proxy: Proxy


@contextlib.contextmanager
def running_proxied(folder: Path) -> Iterator[Proxied]:
    with (
        proxy_to(os.environ["RABBITMQ_PORT"]) as proxy,
        running_api(folder / "log", RABBITMQ_PORT=proxy.port) as api,
    ):
        yield Proxied(api=api, proxy=proxy)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """A second API; who keeps its broker away brings it back."""
    with running_proxied(tmp_path_factory.mktemp("proxied")) as running:
        yield running


@contextlib.asynccontextmanager
async def own_transactions() -> AsyncIterator[Database]:
    """Of a process without a relay: this one."""
    async with open_database(database.url(), application_name="tests", timeout=2) as opened:
        yield opened


@contextlib.contextmanager
def standing_still(*apis: Api) -> Iterator[None]:
    """They send nothing meanwhile."""
    for api in apis:
        api.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for api in apis:
            api.process.send_signal(signal.SIGCONT)


def test_a_city_written_is_counted(committed: Committed, api: Api) -> None:
    url = f"/v1/countries/{committed.country}/statistics"
    with httpx.Client(base_url=api.url) as http:
        assert http.get(url).status_code == 404
        assert http.get(f"/v1/countries/{committed.country + 1}/statistics").status_code == 404
        city = committed.write_city(http).json()["geonameid"]
        committed.judge("a city", extra=0)
        answer = http.get(url).json()
        assert answer.pop("computed_at")
        assert answer == {
            "country_code": committed.payload.country_code,
            "cities": 1,
            "population": 0,
            "largest_city": city,
            "refreshes": 1,
        }
        assert http.delete(f"/v1/cities/{city}").status_code == 204
        wait_until(lambda: http.get(url).json()["cities"] == 0, 10, "it is counted no more")


def test_two_relays_send_each_message_once(committed: Committed, api: Api, proxied: Proxied) -> None:
    commits = 200
    with (
        httpx.Client(base_url=api.url) as one_http,
        httpx.Client(base_url=proxied.api.url) as other_http,
        ThreadPoolExecutor(16) as pool,
    ):
        started = time.monotonic()
        answers = pool.map(committed.write_city, [one_http, other_http] * (commits // 2))
        assert {answer.status_code for answer in answers} == {201}
        took = time.monotonic() - started
        committed.judge("two relays", extra=0)
    print(f"{commits / took:.0f} commits/s, all ran {time.monotonic() - started - took:.1f} s after the last one")
    assert len(committed.ids()) == commits


def outages_told(api: Api) -> int:
    """How often its relay has said that messages wait, or that they do no more."""
    return api.log.read_text().count("messages wait in the outbox")


def test_the_broker_is_away_when_the_data_is_committed(committed: Committed, api: Api, proxied: Proxied) -> None:
    with standing_still(api):
        said = outages_told(proxied.api)
        proxied.proxy.keep_from_server()
        proxied.proxy.cut()
        for _ in range(3):
            committed.put_city(proxied.api)
        asyncio.run(rolled_back(committed))
        wait_until(lambda: outages_told(proxied.api) > said, 10, "the relay says so")
        assert committed.waiting() == 3
        assert not committed.runs()
        proxied.proxy.cut()
        proxied.proxy.speak()
        started = time.monotonic()
        committed.judge("P14 broker away", extra=0)
        print(f"P14: all had run {time.monotonic() - started:.1f} s after the broker was back")
        # Said after the commit, so it may be later than all that was judged.
        wait_until(lambda: outages_told(proxied.api) > said + 1, 10, "the relay says that it is over")
        assert outages_told(proxied.api) == said + 2, "once when it goes, once when it is back"


async def rolled_back(committed: Committed) -> None:
    async with own_transactions() as own:
        with contextlib.suppress(ZeroDivisionError):
            async with own.transaction() as session:
                await committed.add(Outbox(session))
                raise ZeroDivisionError


def test_another_process_sends_what_one_cannot(committed: Committed, api: Api, proxied: Proxied) -> None:
    said = outages_told(proxied.api)
    proxied.proxy.keep_from_server()
    proxied.proxy.cut()
    took = times_until_run(committed, 3, lambda: committed.put_city(proxied.api))
    # That the outbox is empty again says nothing about the broker.
    assert outages_told(proxied.api) == said + 1, "it goes once, however many messages others send"
    proxied.proxy.cut()
    proxied.proxy.speak()
    # The first one was held until its publish timed out. A sweep for each would take twice as long at least.
    assert sum(took) < 1.5 * SWEEP_INTERVAL, took
    with standing_still(api):
        committed.put_city(proxied.api)
        wait_until(lambda: outages_told(proxied.api) > said + 1, 10, "it has sent one, and says that it is over")
    assert outages_told(proxied.api) == said + 2
    committed.judge("P14 cut off", extra=0)


def times_until_run(committed: Committed, count: int, commit: Callable[[], object]) -> list[float]:
    """Commit messages, each when the one before has run; return how long each took, in s."""
    took = []
    for _ in range(count):
        commit()
        started = time.monotonic()
        wait_until(committed.all_ran, 2 * SWEEP_INTERVAL, "it has run")
        took.append(time.monotonic() - started)
    print(f"commit to run: {', '.join(f'{seconds:.2f}' for seconds in took)} s")
    return took


def test_no_sweep_is_waited_for(committed: Committed, api: Api, proxied: Proxied) -> None:
    with standing_still(proxied.api):
        assert sum(times_until_run(committed, 5, lambda: committed.put_city(api))) < SWEEP_INTERVAL
    committed.judge("one after the other", extra=0)


async def test_nothing_is_sent_before_the_commit(committed: Committed, api: Api) -> None:
    async with own_transactions() as own, own.transaction() as session:
        await committed.add(Outbox(session))
        # Every relay looks, and finds what was committed alone.
        async with own.transaction() as other:
            await committed.add(Outbox(other))
            await Outbox(other).call_relays()
        await asyncio.to_thread(wait_until, lambda: bool(committed.runs()), 10, "the other one is sent")
        assert len(committed.runs()) == 1
        await Outbox(session).call_relays()
    await asyncio.to_thread(wait_until, lambda: len(committed.runs()) == 2, 10, "it is sent")
    await asyncio.to_thread(committed.judge, "commit", extra=0)


def kill_while_unconfirmed(victim: Proxied, committed: Committed) -> None:
    """Kill the API when the broker has the message, and the relay has not heard of it."""
    victim.proxy.keep_from_clients()
    committed.put_city(victim.api)
    committed.wait_for_runs(2)
    victim.api.process.kill()


def kill_while_it_deletes(victim: Proxied, committed: Committed) -> None:
    """Kill the API when its message is confirmed, and the relay's DELETE waits for a lock."""
    victim.proxy.keep_from_server()
    committed.put_city(victim.api)

    async def kill() -> None:
        async with database.connected() as test, test.transaction():
            await test.execute("LOCK TABLE outbox IN SHARE MODE")  # SELECT FOR UPDATE passes, DELETE waits
            victim.proxy.speak()
            await asyncio.to_thread(committed.wait_for_runs, 2)
            await asyncio.to_thread(wait_until, waits_for_the_outbox, 10, "it deletes")
            victim.api.process.kill()

    asyncio.run(kill())


def waits_for_the_outbox() -> bool:
    return bool(database.run("SELECT FROM pg_locks WHERE relation = 'outbox'::regclass AND NOT granted"))


@pytest.mark.parametrize("kill", [kill_while_unconfirmed, kill_while_it_deletes])
@pytest.mark.parametrize("number", range(scaled(1, 20)))
def test_killed_after_it_published(
    number: int,
    kill: Callable[[Proxied, Committed], None],
    committed: Committed,
    api: Api,
    proxied: Proxied,
    tmp_path: Path,
) -> None:
    with standing_still(api, proxied.api):
        with running_proxied(tmp_path) as victim:
            committed.put_city(victim.api)  # so that it is connected
            committed.wait_for_runs(1)
            wait_until(lambda: not committed.waiting(), 10, "it is sent")
            kill(victim, committed)
        assert committed.waiting() == 1
        committed.forget_results()
    committed.wait_for_runs(3)
    committed.judge(f"P15 {kill.__name__}", extra=1)


@pytest.mark.parametrize("number", range(scaled(0, 3)))  # it takes `LONGEST_SILENCE`
def test_frozen_after_it_published(
    number: int, committed: Committed, api: Api, proxied: Proxied, tmp_path: Path
) -> None:
    with running_proxied(tmp_path) as victim:
        with standing_still(api, proxied.api):
            committed.put_city(victim.api)
            committed.wait_for_runs(1)
            wait_until(lambda: not committed.waiting(), 10, "it is sent")
            victim.proxy.keep_from_clients()
            committed.put_city(victim.api)
            committed.wait_for_runs(2)
            committed.forget_results()
        with standing_still(victim.api):
            wait_until(lambda: not committed.waiting(), LONGEST_SILENCE / 1000 + 10, "another one sends it again")
            committed.judge("P15 frozen", extra=1)
            victim.api.process.kill()


@pytest.mark.parametrize("number", range(scaled(1, 20)))
def test_killed_under_load(number: int, committed: Committed, api: Api, proxied: Proxied, tmp_path: Path) -> None:
    with (
        standing_still(api, proxied.api),
        running_api(tmp_path / "log") as victim,
        ThreadPoolExecutor(4) as pool,
    ):
        writers = [pool.submit(write_until_it_ends, committed, victim) for _ in range(4)]
        wait_until(lambda: len(committed.ids()) > 50, 20, "there is some load")
        victim.process.kill()
        answered = sum(writer.result() for writer in writers)
    assert answered <= len(committed.ids())
    # A batch at most was under way.
    committed.judge("P15 killed under load", extra=BATCH)


def write_until_it_ends(committed: Committed, api: Api) -> int:
    """Write cities; return how many the API has said to have."""
    written = 0
    with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=api.url) as http:
        while True:
            assert committed.write_city(http).status_code == 201
            written += 1
    return written


def test_it_listens_again(committed: Committed, api: Api) -> None:
    def listening() -> list[Any]:
        return database.run("SELECT pid FROM pg_stat_activity WHERE application_name = $1", APPLICATION_NAME)

    wait_until(lambda: bool(listening()), 10, "it listens")
    before = listening()
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'project-api%'"
    )
    wait_until(lambda: bool(listening()) and not set(before) & set(listening()), 10, "it listens again")
    took = times_until_run(committed, 5, lambda: asyncio.run(added_and_called(committed)))
    assert sum(took) < SWEEP_INTERVAL, took
    committed.judge("backends terminated", extra=0)


async def added_and_called(committed: Committed) -> None:
    """Commit a message that no relay's own process has committed, and NOTIFY."""
    async with own_transactions() as own, own.transaction() as session:
        await committed.add(Outbox(session))
        await Outbox(session).call_relays()


def test_what_can_never_be_sent_is_set_aside(committed: Committed, api: Api) -> None:
    broken = []
    for kwargs, headers in (("{}", '{"no-number": 1e999}'), ("[1]", "{}")):
        statement = (
            "INSERT INTO outbox (id, name, queue, kwargs, headers) VALUES (gen_random_uuid(), $1, $2, $3, $4) "
            "RETURNING id"
        )
        (row,) = database.run(statement, COUNTRY_STATISTICS.name, COUNTRY_STATISTICS.queue, kwargs, headers)
        broken.append(row["id"])
    committed.put_city(api)
    wait_until(lambda: committed.waiting() == len(broken), 10, "the other one is sent")
    kept = database.run("SELECT id, error FROM outbox ORDER BY position")
    assert [row["id"] for row in kept] == broken
    assert "no-number" in kept[0]["error"]
    assert kept[1]["error"]
    for task_id in broken:
        assert f"task {task_id} ({COUNTRY_STATISTICS.name}) can never be sent as it is" in api.log.read_text()
    # What the log says to do.
    kwargs = committed.payload.model_dump_json()
    database.run("UPDATE outbox SET headers = '{}', kwargs = $1, error = NULL", kwargs)
    committed.put_city(api)
    committed.judge("set aside", extra=0)
