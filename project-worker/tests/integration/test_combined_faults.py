"""A8: random faults in everything that a task passes through, under steady load; in the end all is accounted for.

How it works: `chaos.py` draws load and faults from one seed, which is printed; `CHAOS_SEED` sets it. A short form
runs by default, 2 minutes with `./stack test --all`, half an hour with `./stack test --soak`.

What belongs here: how long it lasts, and what must hold afterwards.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Faults, Load
from faults import SOAK, scaled
from own_system import CONCURRENCY, REAPER, OwnSystem, Worker, eventually, on_a_loop
from saboteur import Saboteur

SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))
SECONDS = 1800 if SOAK else scaled(10, 120)
PAUSE = 4.0 if SECONDS > 60 else 0.7  # s between two faults
# Of what two workers can do a quarter to a half: one of them is away for a good part of the long runs.
PER_SECOND = 3.0 if SECONDS > 60 else 6.0
DEADLINE = 90.0  # s, of each piece of work
SETTINGS = {
    # Longer than a worker is ever frozen: that time counts as well.
    "TASK_TIME_LIMIT_SECONDS": 50,
    "TASK_SOFT_TIME_LIMIT_SECONDS": 45,
    "WORKER_MAX_TASKS_PER_CHILD": 200,  # children are replaced meanwhile, too
}


@pytest.fixture
def chaotic(own_system: OwnSystem) -> Iterator[OwnSystem]:
    """Two workers and the reaper."""
    for name in list(own_system.workers):
        own_system.end_worker(name)
    names = ("one", "two", REAPER)
    for name in names:
        own_system.start_worker(name, **SETTINGS)
    yield own_system
    for name in names:
        own_system.end_worker(name)


@on_a_loop
async def test_a8_combined_chaos(chaotic: OwnSystem, tmp_path: Path) -> None:
    print(f"CHAOS_SEED={SEED}, {SECONDS} s")
    proxy = Saboteur("127.0.0.1", chaotic.rabbit.port)
    await proxy.open()
    async with chaotic.client(broker_port=proxy.port, task_deadline=DEADLINE) as client:
        load = Load(chaotic, client, tmp_path, random.Random(f"load {SEED}"), patience=DEADLINE + 30)
        faults = Faults(chaotic, proxy, load, random.Random(f"faults {SEED}"), print, **SETTINGS)
        await eventually(lambda: all(worker.ready() for worker in chaotic.workers.values()), 20, "all are ready")
        await load.run(2, PER_SECOND)
        await load.end()
        await asyncio.to_thread(chaotic.keep_queues)
        before = await _measured(chaotic)
        await asyncio.gather(load.run(SECONDS, PER_SECOND), faults.run(SECONDS, PAUSE))
        quiet = time.monotonic()
        await load.end()
        drained = time.monotonic() - quiet
        tally = load.tally
        print(f"faults {dict(faults.injected)}")
        print(
            f"outcomes {dict(sorted(tally.outcomes.items()))}, refused {tally.refused}, retries {tally.repeats}"
        )
        print(f"drained {drained:.1f} s after the last; slowest answer {tally.slowest}; wrong: {tally.wrong}")
        verdict = load.verdict(faults.explained)
        await eventually(lambda: all(worker.ready() for worker in chaotic.workers.values()), 20, "all are ready")
        left = await _settled(chaotic, before)
    await proxy.close()

    print(f"before {before}\nafter  {left}")
    assert not tally.wrong
    assert verdict.good, verdict


async def _measured(system: OwnSystem) -> dict[str, int]:
    """Return what must not grow."""
    said = await asyncio.to_thread(
        system.evaluate,
        'io:format("~p ~p ", [length(rabbit_networking:connections()), length(rabbit_channel:list())]), '
        '[io:format("~s ~p ~p ", [element(4, amqqueue:get_name(Queue)), Ready, Unacked]) || Queue <- '
        "rabbit_amqqueue:list(), [{_, Ready}, {_, Unacked}] <- "
        "[rabbit_amqqueue:info(Queue, [messages_ready, messages_unacknowledged])]], ok.",
    )
    connections, channels, *queues = said.split()[:-1]
    messages = {
        f"{kind} in {name}": int(count)
        for name, *counts in zip(queues[::3], queues[1::3], queues[2::3], strict=True)
        for kind, count in zip(("ready", "unacked"), counts, strict=True)
        if count != "0"
    }
    return {
        "connections": int(connections),
        "channels": int(channels),
        "queues": len(queues) // 3,
        **messages,
        "attempts kept for ever": sum(
            system.redis.client.ttl(key) < 0 for key in system.redis.client.keys("task-attempts:*")
        ),
        "redis connections": system.redis.connections(),
        "subscriptions": len(system.redis.channels()) + system.redis.patterns(),
        **{f"{name} files": _files(worker) for name, worker in sorted(system.workers.items())},
        **{f"{name} MiB": _resident(worker) for name, worker in sorted(system.workers.items())},
    }


async def _settled(system: OwnSystem, before: dict[str, int]) -> dict[str, int]:
    """Wait until it is as it was before; return what it is."""
    after: dict[str, int] = {}

    async def as_before() -> bool:
        after.clear()
        after.update(await _measured(system))
        return not grown()

    def grown() -> dict[str, int]:
        return {name: count for name, count in after.items() if count > before.get(name, 0) + _slack(name)}

    await eventually(as_before, 60, lambda: f"it is as it was before, {before}; grown: {grown()}")
    return after


def _slack(name: str) -> int:
    """Return how much more than before is no leak: each child connects only when it first has to."""
    children = 2 * CONCURRENCY
    return {"MiB": 30, "files": 10, "connections": 3 * children, "channels": 2 * children}.get(
        name.split()[-1], 0
    )


def _files(worker: Worker) -> int:
    return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))


def _resident(worker: Worker) -> int:
    pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // 2**20
