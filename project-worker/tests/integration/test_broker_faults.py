"""Broker rows of the fault matrix: a real worker lives through what happens to its broker.

How it works: one worker serves the whole module, so that each fault also meets what the one before it has left.
Recovery is measured by tasks that go all the way. The oracle counts runs: nothing accepted is lost, and a fault
explains at most one extra run of each task that was under way.

What belongs here: faults of RabbitMQ. Those of processes and of Redis are tested with the library; all of them
together, in `test_combined_faults.py`.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fault_contracts import WORK
from faults import scaled
from oracle import Oracle
from own_system import CONCURRENCY, OwnSystem, Worker, eventually, on_a_loop, send, served
from saboteur import Saboteur

from async_celery import AsyncCelery, PublishError, TaskHandle, TransportError
from project_contracts.queues import PROJECT_WORKER

_RECONNECT = (
    '[rabbit_networking:close_connection(Pid, "for a test") || Pid <- rabbit_networking:connections()], ok.'
)
"""Ends all connections: what RabbitMQ keeps for each of them (time-outs, permissions) is read anew."""

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture
def steady(own_system: OwnSystem) -> Iterator[Worker]:
    """The worker that lives through all of it; a new one only when a test has failed."""
    worker = own_system.workers.get("steady")
    if worker is None or worker.process.poll() is not None:
        worker = own_system.start_worker("steady")
    yield worker
    assert worker.process.poll() is None, worker.text[-3000:]


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return Oracle(tmp_path / "runs")


@on_a_loop
async def test_b1_killed_and_b8_absent_at_start(own_system: OwnSystem, oracle: Oracle, steady: Worker) -> None:
    async with own_system.client() as client:
        accepted: list[str] = []
        await served(client, oracle, 15, accepted)
        # It is the first one there, and knows more queues than it works.
        assert "Failed to setup delayed delivery" not in steady.text
        await asyncio.to_thread(own_system.keep_queues)
        handles = [await send(client, WORK, oracle, seconds=0.3, value=n) for n in range(12)]
        accepted += [handle.id for handle in handles]
        await eventually(lambda: len(oracle.executions()) > CONCURRENCY, 20, "some run")
        own_system.rabbit.kill()
        with own_system.worker("latecomer") as latecomer:
            await eventually(lambda: "Cannot connect" in latecomer.text, 20, "a worker starts without a broker")
            await asyncio.to_thread(own_system.rabbit.start)
            recovery, late = await asyncio.gather(
                served(client, oracle, 15, accepted),
                eventually(latecomer.ready, 15, "the late worker is ready"),
            )
            results = [await handle.result(timeout=30) for handle in handles]
    assert results == list(range(12))
    print(f"B1 kill -9: served {recovery:.1f} s after the broker was up; B8: a late worker after {late:.1f} s")
    assert oracle.verdict(accepted, allowed_extra=CONCURRENCY).good


async def _persistently(client: AsyncCelery, oracle: Oracle, seconds: float, value: int) -> TaskHandle[int]:
    """Send a task, again until it is accepted."""
    async with asyncio.timeout(15):
        while True:
            with suppress(PublishError, TransportError):
                return await send(client, WORK, oracle, seconds=seconds, value=value)
            await asyncio.sleep(0.05)


@on_a_loop
async def test_b2_b3_restarts_during_long_tasks(own_system: OwnSystem, oracle: Oracle) -> None:
    restarts = scaled(2, 10)
    slowest = 0.0
    async with own_system.client() as client:
        # Longer than it takes to restart the broker, on a slow machine, too.
        handles = [await _persistently(client, oracle, 10, n) for n in range(CONCURRENCY)]
        await eventually(lambda: len(oracle.executions()) == CONCURRENCY, 15, "both children are busy")
        for _ in range(restarts):
            runs = len(oracle.executions())
            await asyncio.to_thread(own_system.evaluate, "rabbit:stop(), rabbit:start().")
            slowest = max(
                slowest,
                # Full concurrency: both are taken again at once, though each keeps a child busy for seconds.
                await eventually(lambda: len(oracle.executions()) >= runs + CONCURRENCY, 15, "both run again"),  # noqa: B023
            )
        assert [await handle.result(timeout=40) for handle in handles] == [*range(CONCURRENCY)]
    print(f"B2/B3 {restarts} broker restarts: both children busy again within {slowest:.1f} s")
    assert oracle.verdict([handle.id for handle in handles], allowed_extra=CONCURRENCY * restarts).good


@on_a_loop
async def test_b4_a_task_longer_than_the_consumer_timeout(
    own_system: OwnSystem, oracle: Oracle, steady: Worker
) -> None:
    def reconnected() -> bool:
        return steady.text.count("Connected to amqp") > connections

    def taken_back() -> int:
        # RabbitMQ closes the worker's channel; from 4.3 on it cancels its consumer.
        return len(re.findall(r"delivery acknowledgement on channel|ConsumerCancelled\(", steady.text[logged:]))

    logged = len(steady.text)
    async with own_system.client() as client:
        accepted: list[str] = []
        await served(client, oracle, 15, accepted)
        connections = steady.text.count("Connected to amqp")
        timeout = scaled(2, 60)
        try:
            await asyncio.to_thread(own_system.evaluate, _consumer_timeout(timeout))
            await eventually(reconnected, 15, "the new time-out counts for the worker")
            await served(client, oracle, 15, accepted)
            long = await send(client, WORK, oracle, seconds=timeout + 3, value=7)
            await eventually(lambda: taken_back() > 0, timeout + 15, "RabbitMQ takes it back")
            again = await served(client, oracle, 15, accepted)
            await eventually(lambda: len(oracle.executions(long.id)) > 1, 15, "it is taken again")
            connections = steady.text.count("Connected to amqp")
        finally:
            await asyncio.to_thread(own_system.evaluate, _consumer_timeout(1800))
        await eventually(reconnected, 15, "the old time-out counts for the worker")
        assert await long.result(timeout=timeout + 20) == 7
    runs = len(oracle.executions(long.id))
    print(f"B4 consumer_timeout: served again after {again:.1f} s, {runs} runs of the long task")
    # It still counts while it is being reset, which ends the connection once more.
    assert oracle.verdict([*accepted, long.id], allowed_extra=taken_back() + 1).good


def _consumer_timeout(seconds: int) -> str:
    """Return what sets it, for all connections from now on, so it ends those that there are."""
    return (
        f"application:set_env(rabbit, consumer_timeout, {seconds * 1000}), "
        f"application:set_env(rabbit, channel_tick_interval, 500), {_RECONNECT}"
    )


@on_a_loop
async def test_b5_the_queue_is_deleted(own_system: OwnSystem, oracle: Oracle) -> None:
    async with own_system.client() as client:
        accepted: list[str] = []
        await served(client, oracle, 15, accepted)
        with own_system.connection() as channel:
            channel.queue_delete(PROJECT_WORKER)
        recovery = await served(client, oracle, 15, accepted)
        assert await (await send(client, WORK, oracle, seconds=0, value=3)).result(timeout=20) == 3
    print(f"B5 queue deleted: served again after {recovery:.1f} s")


@on_a_loop
async def test_b6_the_queue_is_of_another_kind(own_system: OwnSystem, oracle: Oracle) -> None:
    virtual_host = "another-version"
    await asyncio.to_thread(own_system.add_virtual_host, virtual_host)
    url = own_system.rabbit.url(virtual_host=virtual_host)
    with own_system.connection(virtual_host) as channel:
        channel.queue_declare(PROJECT_WORKER, durable=True, auto_delete=False)  # classic: no arguments
    with own_system.worker("refused", BROKER_URL=url) as refused:
        code = await asyncio.to_thread(refused.process.wait, 15)
        said = refused.text
    assert code == 1
    assert f"The queue '{PROJECT_WORKER}' exists already" in said
    assert f"rabbitmqctl delete_queue {PROJECT_WORKER}" in said
    assert "Traceback" not in said


@on_a_loop
async def test_b7_permissions_are_withdrawn(own_system: OwnSystem, oracle: Oracle, steady: Worker) -> None:
    async with own_system.client() as client:
        accepted: list[str] = []
        await served(client, oracle, 15, accepted)
        logged = len(steady.text)
        try:
            # The permissions of open channels are cached: without connections, they count at once.
            await asyncio.to_thread(
                own_system.evaluate,
                f'rabbit_auth_backend_internal:clear_permissions(<<"test">>, <<"/">>, <<"test">>), {_RECONNECT}',
            )
            async with asyncio.timeout(20):
                with pytest.raises((PublishError, TransportError)):
                    while True:
                        await send(client, WORK, oracle, seconds=0, value=1)
            await eventually(lambda: "NOT_ALLOWED" in steady.text[logged:], 15, "the worker is refused as well")
        finally:
            await asyncio.to_thread(own_system.rabbit.control, "set_permissions", "test", ".*", ".*", ".*")
        recovery = await served(client, oracle, 20, accepted)
    print(f"B7 permissions withdrawn: served {recovery:.1f} s after they were given back")
    assert oracle.verdict(accepted).good


@on_a_loop
async def test_b9_restarts_leave_no_queues(own_system: OwnSystem, oracle: Oracle) -> None:
    async with own_system.client() as client:
        await served(client, oracle, 15, [])
    before = set(await asyncio.to_thread(own_system.queues))
    restarts = scaled(1, 200)
    for number in range(restarts):
        with own_system.worker("restarted") as worker:
            await eventually(worker.ready, 20, "it is ready")
            if not number:
                during = await asyncio.to_thread(own_system.queues)
    assert len(during) > len(before)

    left: set[str] = set()

    async def none_left() -> bool:
        left.clear()
        left.update(await asyncio.to_thread(own_system.queues))
        return left <= before

    gone = await eventually(none_left, 60, lambda: f"queues of dead workers are gone; left: {left - before}")
    print(f"B9 {restarts} restarts by kill -9: {len(before)} queues again after {gone:.1f} s")


@on_a_loop
async def test_b11_a_slow_broker(own_system: OwnSystem, oracle: Oracle) -> None:
    window, delay = 50, 0.25
    tasks = window * scaled(4, 40)
    proxy = Saboteur("127.0.0.1", own_system.rabbit.port)
    await proxy.open()
    try:
        options = {"publish_timeout": 60, "max_in_flight": window}
        async with own_system.client(broker_port=proxy.port, **options) as client:
            await client.ping_broker()
            await send(client, WORK, oracle, seconds=0, value=0)
            proxy.delay = delay
            started = time.monotonic()
            await asyncio.gather(*(send(client, WORK, oracle, seconds=0, value=0) for _ in range(tasks)))
            rate = tasks / (time.monotonic() - started)
            proxy.delay = 0
    finally:
        await proxy.close()
    limit = window / (2 * delay)
    print(f"B11 {2 * delay:g} s for a round trip: {rate:.0f} tasks/s, window/RTT = {limit:.0f}")
    assert rate > 0.6 * limit
