"""Chaos: a steady load on a whole system, and one fault after the other, both chosen by a seed.

How it works: `Load` keeps sending all shapes of work through the library's client: single tasks, retries,
failures, chains, groups, chords, cancellations, short expirations. Each is waited for, from its acceptance to its
end, and judged. `Faults` shuffles the deck of faults, injects them with short pauses, mends what it has broken,
and adds up how many extra runs they explain: what ran at that moment, what that may send a second time, and what
the client may. Bursts of short tasks are in that deck as well: what comes next meets a long queue, or results
that nobody waits for. The same seed gives the same sequence of both; what meets what is up to the machine.

What belongs here: making and judging the load, and breaking things. How much of it, and what must hold in the
end, is `test_combined_faults.py`'s.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import chain, chord, group
from fault_contracts import FAIL, PLUS, STUMBLE, TOTAL, WORK
from oracle import Oracle
from own_system import CONCURRENCY, REAPER, OwnSystem, Worker, eventually
from redis.exceptions import RedisError
from saboteur import Saboteur

from async_celery import (
    AsyncCelery,
    BackendError,
    OnTimeout,
    PublishError,
    TaskExpired,
    TaskFailed,
    TaskHandle,
    TaskRevoked,
    TransportError,
)
from project_contracts.contract import TaskContract

REFUSED = (PublishError, BackendError, TransportError)
_LARGEST = 6
"""Messages of the largest workflow: a chord of five, and its body."""

_STEPS = 3
"""Of each chain."""

_BURST, _BURST_LONG = 100, 1000
"""Tasks of a burst; in long runs."""

_AT_ONCE = 50
"""Of a burst so many are sent at a time: fewer than the client allows."""

_UNHEARD = 25.0  # s; more than two heartbeats
_CANCEL_GRACE = 1.0  # s; a run that began as the cancellation was stored is written down by then


@dataclass
class Tally:
    """What became of the load so far.

    Attributes:
        outcomes: how many of each kind ended how.
        accepted: ids of all tasks that were accepted, members of workflows too.
        explicit: those of them that ended without success, and said so.
        repeats: runs beyond the first that the tasks themselves may have asked for (retries).
        refused: sends that were refused with an error.
        wrong: what must not be; empty when all is well.
        slowest: in s, from acceptance to answer, and whose it was.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    explicit: set[str] = field(default_factory=set)
    repeats: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class Load:
    """Sends work, waits for it and judges it. `patience`, in s, is how long any of it may take.

    Attributes:
        begun: how many messages, with all that follow from them, it has begun to send; not those of which the
            client said that they were not sent.
        sent: how many of these were accepted or refused. Those between are sent again after a lost connection.
        following: how many messages what is not answered yet may lead to: retries, next steps, bodies of chords.
            A task that runs again sends these again.
        freezes: how often a worker was frozen.
        tally: what became of it.
    """

    def __init__(self, system: OwnSystem, client: AsyncCelery, folder: Path, rng: random.Random, patience: float):
        self._client, self._app = client, system.app
        self._folder, self._rng, self._patience = folder, rng, patience
        self._oracle = Oracle(folder / "runs")
        self._number = self._bursts = 0
        self._logs: list[Oracle] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self.begun = self.sent = self.following = self.freezes = 0
        self.tally = Tally()

    async def run(self, seconds: float, per_second: float) -> None:
        """Send for so long, at so many pieces of work per second."""
        deck = [self._single, self._long, self._long, self._stumble, self._fail, self._cancelled]
        deck += [self._expiring, self._chain, self._group, self._chord]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._number += 1
            # Drawn here, so that the sequence does not depend on what is awaited where.
            self._begin(self._rng.choice(deck)(random.Random(self._rng.random())))
            await asyncio.sleep(self._rng.expovariate(per_second))

    def backlog(self, size: int) -> None:
        """Begin to send so many short tasks at once, a third of which fail; each is waited for."""
        self._begin(self._burst("backlog", size))

    def unwaited(self, size: int, pause: float) -> None:
        """Begin to send so many short tasks at once, for which nobody waits for `pause` s; then all do."""
        self._begin(self._burst("unwaited", size, pause))

    def _begin(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def end(self) -> None:
        """Wait until all has been answered."""
        while self._jobs:
            await asyncio.gather(*self._jobs)

    def verdict(self, explained: int) -> Any:
        """Return the oracle's, with so many extra runs explained by faults."""
        while self._logs:
            self._merge(self._logs.pop())
        return self._oracle.verdict(
            self.tally.accepted, self.tally.explicit, allowed_extra=explained + self.tally.repeats
        )

    # Kinds of work.

    async def _single(self, rng: random.Random) -> None:
        value = rng.randrange(1000)
        await self._task("single", WORK, value, seconds=rng.uniform(0, 0.2), value=value)

    async def _long(self, rng: random.Random) -> None:
        await self._task("long", WORK, 7, seconds=rng.uniform(1, 2), value=7)

    async def _stumble(self, rng: random.Random) -> None:
        value = rng.randrange(1000)
        self.tally.repeats += 1  # even when it is refused: the broker may have it
        with self._leading_to(1):
            await self._task("retried", STUMBLE, value, seconds=0.05, value=value)

    async def _fail(self, _: random.Random) -> None:
        await self._task("failing", FAIL, TaskFailed)

    async def _expiring(self, rng: random.Random) -> None:
        expires = rng.uniform(0.2, 2)
        await self._task("expiring", WORK, 8, expires=expires, seconds=0.1, value=8)

    async def _cancelled(self, rng: random.Random) -> None:
        pause = rng.uniform(0, 1)
        freezes = self.freezes
        handle = await self._sent(WORK, seconds=rng.uniform(0, 2), value=9)
        if handle is None:
            return
        await asyncio.sleep(pause)
        try:
            done = not await handle.cancel()
        except REFUSED:
            done = True  # nobody promised anything
        began = time.monotonic()
        await asyncio.sleep(_CANCEL_GRACE)
        runs = len(self._oracle.executions(handle.id))
        outcome = await self._outcome(handle)
        self._judge("cancelled", handle, outcome, [9, TaskRevoked])
        if done:
            return
        # It stays cancelled: nothing that happens later starts it again. Only a process that was frozen between
        # asking whether it may run and running goes on.
        await asyncio.sleep(max(0, began + 3 - time.monotonic()))
        later = len(self._oracle.executions(handle.id))
        if later > runs + (self.freezes > freezes):
            self.tally.wrong.append(f"cancelled task {handle.id} started {later - runs} times afterwards")

    async def _chain(self, rng: random.Random) -> None:
        first, *others = (rng.randrange(100) for _ in range(_STEPS))

        def canvas(log: str) -> Any:
            steps = [self._signature(PLUS, value=0, log=log, amount=first)]
            return chain(*steps, *(self._signature(PLUS, log=log, amount=n) for n in others), app=self._app)

        with self._leading_to(_STEPS - 1):
            await self._workflow("chain", canvas, first + sum(others))

    async def _group(self, rng: random.Random) -> None:
        values = [rng.randrange(100) for _ in range(4)]
        await self._workflow("group", lambda log: group(self._works(values, log), app=self._app), values)

    async def _chord(self, rng: random.Random) -> None:
        values = [rng.randrange(100) for _ in range(5)]
        with self._leading_to(1):
            await self._workflow(
                "chord",
                lambda log: chord(self._works(values, log), self._signature(TOTAL, log=log), app=self._app),
                sum(values),
            )

    async def _burst(self, kind: str, size: int, pause: float | None = None) -> None:
        # In a log of its own: the common one is read again and again while the load runs.
        self._bursts += 1
        log = Oracle(self._folder / f"burst-{self._bursts}")
        self._logs.append(log)
        limit = asyncio.Semaphore(_AT_ONCE)

        async def send(number: int) -> tuple[int, TaskHandle[Any] | None]:
            async with limit:
                if pause is None and number % 3 == 0:
                    return number, await self._sent(FAIL, log=str(log.path))
                return number, await self._sent(WORK, log=str(log.path), seconds=0, value=number)

        async def judge(number: int, handle: TaskHandle[Any]) -> None:
            is_bad = pause is None and number % 3 == 0
            self._judge(kind, handle, await self._outcome(handle), [TaskFailed if is_bad else number])

        sent = await asyncio.gather(*map(send, range(size)))
        await asyncio.sleep(pause or 0)
        await asyncio.gather(*(judge(number, handle) for number, handle in sent if handle is not None))

    def _works(self, values: list[int], log: str) -> list[Any]:
        return [self._signature(WORK, log=log, seconds=0.1, value=value) for value in values]

    def _signature(self, contract: TaskContract[Any, Any], **arguments: object) -> Any:
        return self._app.signature(contract.name, kwargs=arguments, options={"queue": contract.queue})

    # Sending and judging.

    @contextlib.contextmanager
    def _sending(self, messages: int) -> Iterator[None]:
        self.begun += messages
        try:
            yield
        except REFUSED as exc:
            if "nothing was sent" in str(exc):
                self.begun -= messages
            else:
                self.sent += messages
            raise
        self.sent += messages

    @contextlib.contextmanager
    def _leading_to(self, messages: int) -> Iterator[None]:
        self.following += messages
        try:
            yield
        finally:
            self.following -= messages

    async def _sent(
        self, contract: TaskContract[Any, Any], expires: float | None = None, **arguments: object
    ) -> TaskHandle[Any] | None:
        # The retry of one that stumbles may be doubled as well.
        try:
            with self._sending(2 if contract is STUMBLE else 1):
                handle = await self._client.send_task(
                    contract.name,
                    kwargs={"log": str(self._oracle.path), **arguments},
                    queue=contract.queue,
                    expires=expires,
                )
        except REFUSED as exc:
            self.tally.refused += 1
            if isinstance(exc, PublishError) and exc.task_id is not None:
                self._unsure(exc.task_id)
            return None
        self.tally.accepted.add(handle.id)
        return handle

    def _unsure(self, task_id: str) -> None:
        """The broker may have it: it may run, and it may as well not."""
        self.tally.accepted.add(task_id)
        self.tally.explicit.add(task_id)

    async def _task(
        self,
        kind: str,
        contract: TaskContract[Any, Any],
        expected: Any,
        expires: float | None = None,
        **arguments: object,
    ) -> None:
        handle = await self._sent(contract, expires, **arguments)
        if handle is None:
            return
        outcome = await self._outcome(handle)
        self._judge(kind, handle, outcome, [expected] if expires is None else [expected, TaskRevoked])

    async def _workflow(self, kind: str, canvas: Callable[[str], Any], expected: Any) -> None:
        # Of one that is refused some members may run, whose ids nobody has learned: so it has a log of its own.
        own = Oracle(self._folder / f"workflow-{self._number}")
        try:
            with self._sending(_LARGEST):
                handle = await self._client.submit(canvas(str(own.path)))
        except REFUSED:
            self.tally.refused += 1
            return
        self._judge(kind, handle, await self._outcome(handle), [expected])
        members: list[Any] = []

        async def all_ended() -> bool:
            try:
                members[:] = _leaves(await handle.status())
            except REFUSED:
                return False
            except TaskExpired:  # judged already: the deadline leaves time for all
                return True
            return all(leaf.state.is_final for leaf in members)

        # Celery sends the next step before it stores the end of the one before, and may be frozen in between.
        with contextlib.suppress(AssertionError):
            await eventually(all_ended, 2 * _UNHEARD, "all members have ended")
        self.tally.accepted |= {leaf.id for leaf in members}
        self.tally.explicit |= {leaf.id for leaf in members if leaf.state != "SUCCESS"}
        if unfinished := [leaf.id for leaf in members if not leaf.state.is_final]:
            self.tally.wrong.append(f"{kind} {handle.id} has ended, its members {unfinished} have not")
        self._merge(own)

    def _merge(self, own: Oracle) -> None:
        with self._oracle.path.open("a") as log:
            log.write(own.path.read_text() if own.path.exists() else "")

    async def _outcome(self, handle: TaskHandle[Any]) -> Any:
        """Return its result, or the error in its place."""
        started = time.monotonic()
        try:
            return await handle.result(timeout=self._patience, on_timeout=OnTimeout.KEEP)
        except (TaskFailed, TaskRevoked) as exc:
            self.tally.explicit.add(handle.id)
            return exc
        except Exception as exc:
            return exc
        finally:
            self.tally.slowest = max(self.tally.slowest, (time.monotonic() - started, handle.id))

    def _judge(self, kind: str, handle: TaskHandle[Any], outcome: Any, expected: list[Any]) -> None:
        is_error = isinstance(outcome, Exception)
        self.tally.outcomes[f"{kind}: {type(outcome).__name__ if is_error else 'result'}"] += 1
        for each in expected:
            if isinstance(outcome, each) if isinstance(each, type) else outcome == each:
                return
        self.tally.wrong.append(f"{kind} {handle.id}: {outcome!r}, expected {expected}")


def _leaves(status: Any) -> list[Any]:
    if not status.children:
        return [status]
    return [leaf for child in status.children for leaf in _leaves(child)]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a fault has hit.

    Attributes:
        running: at most so many tasks that ran; they run again, and send again what follows from them.
        client: whether the client lost its connection to the broker, and sends again what was not confirmed.
    """

    running: int = 0
    client: bool = False


class Faults:
    """Breaks things, and mends them. `explained` is how many extra runs that may have caused."""

    def __init__(
        self,
        system: OwnSystem,
        proxy: Saboteur,
        load: Load,
        rng: random.Random,
        say: Callable[[str], None],
        **settings: object,
    ) -> None:
        self._say = say
        self._is_patient = False
        self._system, self._proxy, self._load, self._rng, self._settings = system, proxy, load, rng, settings
        self.explained = 0
        self.injected: Counter[str] = Counter()

    @property
    def _everything(self) -> int:
        """How many tasks can be under way at once."""
        return CONCURRENCY * len(self._names)

    @property
    def _names(self) -> list[str]:
        return sorted(name for name in self._system.workers if name != REAPER)

    async def run(self, seconds: float, pause: float) -> None:
        """Inject for so long, `pause` seconds apart on average."""
        self._is_patient = pause > 1
        deck: list[Callable[[], Awaitable[Hit]]] = [
            *(self._child_killed, self._worker_killed, self._worker_restarted, self._worker_frozen),
            *(self._broker_restarted, self._broker_killed, self._connections_closed, self._confirms_cut),
            *(self._redis_killed, self._redis_frozen, self._pushes_cut, self._reaper_killed),
            *(self._many_queued, self._many_unwaited),
        ]
        end = time.monotonic() + seconds
        while True:
            self._rng.shuffle(deck)
            for fault in deck:
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * pause)
                if time.monotonic() > end:
                    return
                name = fault.__name__.strip("_").replace("_", " ")
                self._say(f"{time.strftime('%H:%M:%S')} {name}")
                self.injected[name] += 1
                sent, following = self._load.sent, self._load.following
                hit = await fault()
                self.explained += hit.running
                if hit.running:
                    self.explained += following
                if hit.client:
                    # When exactly the connection was lost is not known: what was on its way before, or since.
                    self.explained += self._load.begun - sent

    async def _child_killed(self) -> Hit:
        worker = self._system.workers[self._rng.choice(self._names)]
        if children := worker.children():
            with contextlib.suppress(ProcessLookupError):
                _kill(self._rng.choice(children))
        return Hit(running=1)

    async def _worker_killed(self) -> Hit:
        worker = self._system.workers[name := self._rng.choice(self._names)]
        children = worker.children()
        worker.process.kill()
        await asyncio.to_thread(worker.process.wait)
        await eventually(lambda: not any(map(_lives, children)), 15, f"no orphans of {name}")
        self._system.start_worker(name, **self._settings)
        return Hit(running=CONCURRENCY)

    async def _worker_restarted(self) -> Hit:
        worker = self._system.workers[name := self._rng.choice(self._names)]
        await _until_it_runs(worker)
        worker.signal(signal.SIGTERM)
        await asyncio.to_thread(worker.process.wait, 30)
        self._system.start_worker(name, **self._settings)
        return Hit()

    async def _worker_frozen(self) -> Hit:
        worker = self._system.workers[self._rng.choice(self._names)]
        # In long runs now and then for longer than the broker waits for its heartbeats: then others take over.
        is_long = self._rng.random() < 0.25 and self._is_patient
        self._load.freezes += 1
        worker.signal(signal.SIGSTOP, group=True)
        await asyncio.sleep(_UNHEARD if is_long else self._rng.uniform(1, 4))
        worker.signal(signal.SIGCONT, group=True)
        return Hit(running=CONCURRENCY if is_long else 0)

    async def _broker_restarted(self) -> Hit:
        await asyncio.to_thread(self._system.evaluate, "rabbit:stop(), rabbit:start().")
        return Hit(running=self._everything, client=True)

    async def _broker_killed(self) -> Hit:
        self._system.rabbit.kill()
        await asyncio.to_thread(self._system.rabbit.start)
        return Hit(running=self._everything, client=True)

    async def _connections_closed(self) -> Hit:
        await asyncio.to_thread(self._system.rabbit.control, "close_all_connections", "chaos")
        return Hit(running=self._everything, client=True)

    async def _confirms_cut(self) -> Hit:
        with contextlib.suppress(TimeoutError):
            await self._proxy.cut_after(self._rng.randrange(200), to_broker=False)
        return Hit(client=True)

    async def _redis_killed(self) -> Hit:
        self._system.redis.kill()
        await asyncio.sleep(self._rng.uniform(0.2, 2))
        await asyncio.to_thread(self._system.redis.start)
        return Hit()

    async def _redis_frozen(self) -> Hit:
        self._system.redis.hang()
        await asyncio.sleep(self._rng.uniform(0.5, 4))
        self._system.redis.go_on()
        return Hit()

    async def _pushes_cut(self) -> Hit:
        for _ in range(5):
            with contextlib.suppress(RedisError):
                self._system.redis.client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.1)
        return Hit()

    async def _many_queued(self) -> Hit:
        self._load.backlog(_BURST_LONG if self._is_patient else _BURST)
        return Hit()

    async def _many_unwaited(self) -> Hit:
        self._load.unwaited(_BURST_LONG if self._is_patient else _BURST, self._rng.uniform(0, 5))
        return Hit()

    async def _reaper_killed(self) -> Hit:
        reaper = self._system.workers[REAPER]
        reaper.process.kill()
        await asyncio.to_thread(reaper.process.wait)
        self._system.start_worker(REAPER, **self._settings)
        return Hit()


async def _until_it_runs(worker: Worker) -> None:
    # One that is told to end before it has begun ends as well; but that is no deploy.
    with contextlib.suppress(AssertionError):
        await eventually(worker.ready, 30, "it runs")


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
