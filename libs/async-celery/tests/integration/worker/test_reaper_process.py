"""What the reaper's process promises: killed, it loses nothing; it stops soon, and tells what is set wrong."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from async_celery.worker import dead_letters

from ..conftest import Address
from ..faults import scaled
from .reaper_process import ReaperProcess
from .worker_process import WorkerProcess, management, own_vhost, wait_until


@pytest.fixture
def site(vhost: str, backend: Address, tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker that is not started: its app, and what is stored of its tasks."""
    site = WorkerProcess(tmp_path, broker=vhost, backend=backend.url(), queue="idle")
    yield site
    site.close()


@pytest.fixture
def reaper(site: WorkerProcess, tmp_path: Path) -> Iterator[ReaperProcess]:
    """A reaper that is not started."""
    reaper = ReaperProcess(tmp_path, site.settings)
    yield reaper
    reaper.close()


def bury(site: WorkerProcess, *task_ids: str) -> None:
    """Make messages dead letters, as RabbitMQ does."""
    death = {"reason": "rejected", "queue": "idle", "count": 1, "exchange": "", "routing-keys": ["idle"]}
    with site.client.connection_for_write() as connection:
        dead_letters.declare(connection)
        producer = connection.Producer()
        for task_id in task_ids:
            producer.publish(
                json.dumps([[1, 2], {}, {}]),
                exchange="dead-letters",
                routing_key="idle",
                content_type="application/json",
                content_encoding="utf-8",
                headers={"id": task_id, "task": "add", "x-death": [death]},
            )


def taken(site: WorkerProcess, queue: Any) -> list[str]:
    """Take what lies in a queue; return the ids."""
    ids = []
    with site.client.connection_for_read() as connection:
        bound = queue.bind(connection.default_channel)
        while (message := bound.get(no_ack=True)) is not None:
            ids.append(message.headers["id"])
    return ids


def test_killed_in_the_middle_it_loses_nothing(
    site: WorkerProcess, reaper: ReaperProcess, tmp_path: Path
) -> None:
    kills = scaled(1, 20)
    sent = [str(uuid4()) for _ in range(150 * kills)]
    bury(site, *sent)
    luck = random.Random(5)
    parked: list[str] = []
    for _ in range(kills):
        reaper.launch()
        _wait_until_parked(site, luck.randint(1, 30))
        reaper.close()
        parked += taken(site, dead_letters.PARKED)
        assert len(parked) < len(sent), "it was killed too late to be in the middle"
    # Two beside each other do no harm.
    with reaper, ReaperProcess(tmp_path, site.settings):

        def all_parked() -> bool:
            parked.extend(taken(site, dead_letters.PARKED))
            return set(parked) == set(sent)

        wait_until(all_parked, 30, what="the parking of all dead letters")
    assert taken(site, dead_letters.INBOX) == []
    times = Counter(parked)
    # Twice at most the one that it was at.
    assert times.total() - len(sent) <= kills
    assert {site.meta(task_id)["status"] for task_id in sent} == {"FAILURE"}


def _wait_until_parked(site: WorkerProcess, count: int) -> None:
    with site.client.connection_for_read() as connection:
        channel: Any = connection.default_channel
        parked = dead_letters.PARKED.name
        wait_until(
            lambda: channel.queue_declare(parked, passive=True).message_count >= count,
            30,
            what=f"the parking of {count} dead letters",
        )


def test_what_cannot_be_parked_stays_in_the_inbox(backend: Address, tmp_path: Path) -> None:
    task_id = str(uuid4())
    with own_vhost() as broker:
        site = WorkerProcess(tmp_path, broker=broker, backend=backend.url())
        bury(site, task_id)
        rights = f"/permissions/{broker.rpartition('/')[2]}/{os.environ['RABBITMQ_USER']}"
        # All but what begins with an `a`: the exchange amq.default leads to the parked ones.
        management("PUT", rights, {"configure": ".*", "write": "^[^a]", "read": ".*"})
        reaper = ReaperProcess(tmp_path, site.settings)
        try:
            assert reaper.launch().process.wait(30) == 1
            assert "The broker refuses the reaper" in reaper.text
            management("PUT", rights, {"configure": ".*", "write": ".*", "read": ".*"})
            reaper.start()
            wait_until(lambda: taken(site, dead_letters.PARKED) == [task_id], what="the parking")
        finally:
            reaper.close()
            site.close()


def test_it_stops_soon_whether_its_servers_are_there_or_not(
    site: WorkerProcess, reaper: ReaperProcess, tmp_path: Path
) -> None:
    # Nobody listens there; it says so once and goes on.
    away = replace(site.settings, broker="amqp://guest:guest@127.0.0.1:9//")
    waiting = ReaperProcess(tmp_path / "waiting", away)
    try:
        waiting.launch()
        reaper.start()
        wait_until(lambda: "The reaper waits for its servers" in waiting.text, what="its complaint")
        for process, number in ((reaper, signal.SIGTERM), (waiting, signal.SIGINT)):
            began = time.monotonic()
            assert process.stop(number) == 0
            assert time.monotonic() - began < 10
            assert "Traceback" not in process.text
    finally:
        waiting.close()


def test_its_heartbeat_tells_whether_it_works(site: WorkerProcess, tmp_path: Path) -> None:
    files = {name: tmp_path / name / "alive" for name in ("working", "waiting")}
    working, waiting = (
        replace(site.settings, policy=replace(site.settings.policy, heartbeat_file=file))
        for file in files.values()
    )
    waiting = replace(waiting, broker="amqp://guest:guest@127.0.0.1:9//")  # nobody listens there
    reapers = [ReaperProcess(tmp_path / "working", working), ReaperProcess(tmp_path / "waiting", waiting)]
    try:
        for reaper in reapers:
            reaper.launch()
        for _ in range(3):
            wait_until(files["working"].exists, 30, what="the heartbeat")
            files["working"].unlink()
        wait_until(lambda: "The reaper waits for its servers" in reapers[1].text, 30, what="its complaint")
        assert not files["waiting"].exists()
    finally:
        for reaper in reapers:
            reaper.close()


def test_wrong_settings_end_it_with_a_message(site: WorkerProcess, tmp_path: Path) -> None:
    settings = site.settings
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "password": ({"broker": _with_password(settings.broker, "wrong")}, "The broker refuses the reaper"),
        "vhost": ({"broker": f"{settings.broker}-elsewhere"}, "The broker refuses the reaper"),
        "redis": ({"backend": _with_password(settings.backend, "wrong")}, "Redis refuses the reaper"),
    }
    reapers = {name: ReaperProcess(tmp_path / name, replace(settings, **wrong[name][0])) for name in wrong}
    try:
        for reaper in reapers.values():
            reaper.launch()
        for name, reaper in reapers.items():
            assert reaper.process.wait(30) == 1
            assert wrong[name][1] in reaper.text
            assert "wrong" not in reaper.text
            assert "Traceback" not in reaper.text
    finally:
        for reaper in reapers.values():
            reaper.close()


def test_queues_with_other_arguments_end_it_with_a_message(backend: Address, tmp_path: Path) -> None:
    with own_vhost() as broker:
        site = WorkerProcess(tmp_path, broker=broker, backend=backend.url())
        with site.client.connection_for_write() as connection:
            channel: Any = connection.default_channel
            channel.queue_delete(dead_letters.PARKED.name)
            channel.queue_declare(
                dead_letters.PARKED.name, durable=True, auto_delete=False, arguments={"x-max-length": 1}
            )
        reaper = ReaperProcess(tmp_path, site.settings)
        try:
            assert reaper.launch().process.wait(30) == 1
        finally:
            reaper.close()
            site.close()
    assert "A queue of dead letters exists with other arguments" in reaper.text
    assert "Traceback" not in reaper.text


def test_workers_declare_where_dead_letters_go(backend: Address, tmp_path: Path) -> None:
    with own_vhost() as broker:
        site = WorkerProcess(tmp_path, broker=broker, backend=backend.url())
        with site.client.connection_for_write() as connection:
            channel: Any = connection.default_channel
            channel.exchange_delete("dead-letters")
            for queue in (dead_letters.INBOX, dead_letters.PARKED):
                channel.queue_delete(queue.name)
            dead_letters.DeadLetterTopology(None).start(SimpleNamespace(connection=connection))
            # At-least-once: what dies from now on arrives.
            producer = connection.Producer()
            producer.publish("{}", exchange="dead-letters", routing_key="whatever it died in")
            message = dead_letters.INBOX.bind(channel).get(no_ack=True)
            assert message is not None
            assert channel.queue_declare(dead_letters.PARKED.name, passive=True).message_count == 0
        site.close()


def _with_password(url: str, password: str) -> str:
    login, at, rest = url.rpartition("@")
    return f"{login.rpartition(':')[0]}:{password}{at}{rest}"
