"""A whole system of a test's own, to be broken: RabbitMQ, Redis, real workers, the library's client.

How it works: the servers are those of the library's tests (`rabbitmq_server`, `redis_server`), on free ports of
loopback. Workers run the project's own app with the tasks of `fault_app`, each in a process group of its own, so
that nothing outlives the test, whatever was done to it. Results survive a killed Redis (append-only file), as
in production.

What belongs here: starting, stopping, and looking at it. What is broken, and what must hold, stands in the tests.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from celery import Celery
from fault_contracts import WORK
from oracle import Oracle
from rabbitmq_server import RabbitServer
from redis_server import RedisServer

from async_celery import AsyncCelery, PublishError, TaskHandle, TransportError
from async_celery.queues import work_queue
from project_contracts.contract import TaskContract
from project_contracts.queues import PROJECT_WORKER, QUEUES

HERE = Path(__file__).resolve().parent
IMPORT_ROOT = HERE.parents[1] / "project-worker"
SHARED = HERE.parents[2] / "libs" / "async-celery" / "tests" / "integration"
TASK_ID_KEY = b"a key for tests only"
CONCURRENCY = 2
"""Children of each worker, so as many tasks as it can have under way."""

REAPER = "reaper"
_WORKER_COMMAND = f"celery -A fault_app:app worker --pool prefork -c {CONCURRENCY} -Q {PROJECT_WORKER} -l INFO"
_REAPER_COMMAND = "async_celery.worker.reaper -A fault_app:app -l INFO"

P = ParamSpec("P")


def on_a_loop(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Let an `async def` test run on a loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_awaited(test(*args, **kwargs)))

    return run


async def _awaited(running: Awaitable[None]) -> None:
    await running


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float, what: str | Callable[[], str]
) -> float:
    """Poll until `condition` holds; return how long that took, in s. `what` says it, for when it does not."""
    started = time.monotonic()
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return time.monotonic() - started
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(0.05)


class Worker:
    """A worker's or the reaper's process, and its children."""

    def __init__(self, name: str, command: str, folder: Path, environ: dict[str, str]) -> None:
        """Start it, without waiting until it is ready."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command.split()],
                cwd=HERE,
                env=os.environ | environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        """What it has logged since it was started."""
        return self.log.read_bytes()[self._seen :].decode(errors="replace")

    def ready(self) -> bool:
        assert self.process.poll() is None, f"{self.name} has ended:\n{self.text}"
        return " ready." in self.text

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the main process, or to its children, too."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def children(self) -> list[int]:
        """Return the pids of the pool's processes."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def close(self) -> None:
        """End all of it, in whatever state it is."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class OwnSystem:
    """The servers and the workers. `log` is where the tasks of the running test are witnessed."""

    def __init__(self, folder: Path) -> None:
        """Prepare it; nothing is started."""
        self.folder = folder
        (folder / "redis").mkdir()
        (folder / "rabbitmq").mkdir()
        self.redis = RedisServer(folder / "redis", keeps=True)
        self.rabbit = RabbitServer(folder / "rabbitmq")
        self.workers: dict[str, Worker] = {}

    def start_worker(self, name: str, **settings: object) -> Worker:
        """Start a worker (or the REAPER), or start it again; `settings` are environment variables of it."""
        environ = {
            "BROKER_URL": self.rabbit.url(),
            "RESULT_BACKEND": self.redis.url(),
            "SIGNED_PICKLE_KEY": "a key for tests only",
            "RETRY_BACKOFF_MAX_SECONDS": 1,
            "PYTHONPATH": os.pathsep.join(map(str, (IMPORT_ROOT, HERE, SHARED))),
            **settings,
        }
        command = _REAPER_COMMAND if name == REAPER else f"{_WORKER_COMMAND} -n {name}@%h"
        variables = {key: str(value) for key, value in environ.items()}
        self.workers[name] = Worker(name, command, self.folder, variables)
        return self.workers[name]

    @contextmanager
    def worker(self, name: str, **settings: object) -> Iterator[Worker]:
        """Run a worker until the block ends; it need not be ready yet."""
        worker = self.start_worker(name, **settings)
        try:
            yield worker
        finally:
            self.end_worker(name)

    def end_worker(self, name: str) -> None:
        self.workers.pop(name).close()

    def client(self, *, broker_port: int | None = None, **options: Any) -> AsyncCelery:
        """Make the library's client, as the API does; `broker_port` leads through a proxy."""
        app = Celery("faults", set_as_current=False)
        app.conf.update(
            broker_url=self.rabbit.url(broker_port),
            result_backend=self.redis.url(),
            task_queues=[
                work_queue(queue.name, max_length=queue.max_length, delivery_limit=queue.delivery_limit)
                for queue in QUEUES
            ],
            task_default_queue=PROJECT_WORKER,
            broker_heartbeat=10,
        )
        self.app = app  # canvases are made for it
        return AsyncCelery(app, task_id_key=TASK_ID_KEY, **options)

    def evaluate(self, expression: str) -> str:
        """Let RabbitMQ evaluate Erlang; a second."""
        return self.rabbit.control("eval", expression)

    def keep_queues(self) -> None:
        """Have RabbitMQ write down which queues there are.

        3.10 does so seconds after a quorum queue was declared. Killed before, it starts the queue anew, and
        without a leader: whatever is asked of it times out, until it is deleted.
        """
        self.evaluate("[dets:sync(Table) || Table <- dets:all()], ok.")

    def add_virtual_host(self, name: str) -> None:
        """Make one, for the user of the tests."""
        self.rabbit.control("add_vhost", name)
        self.rabbit.control("set_permissions", "-p", name, "test", ".*", ".*", ".*")

    @contextmanager
    def connection(self, virtual_host: str = "") -> Iterator[Any]:
        """A channel of the test's own."""
        url = self.rabbit.url(virtual_host=virtual_host)
        with Celery(broker=url, set_as_current=False).connection_for_write() as connection:
            yield connection.default_channel

    def queues(self) -> list[str]:
        """Return the names of all queues that exist."""
        listed = self.evaluate(
            '[io:format("~s ", [element(4, amqqueue:get_name(Q))]) || Q <- rabbit_amqqueue:list()], ok.'
        )
        return listed.split()[:-1]

    def close(self) -> None:
        for name in list(self.workers):
            self.end_worker(name)
        self.rabbit.close()
        self.redis.close()


async def send(
    client: AsyncCelery, contract: TaskContract[Any, Any], oracle: Oracle, **arguments: object
) -> TaskHandle[int]:
    """Send a task as the API does; return when it is accepted."""
    return await client.send_task(
        contract.name,
        kwargs={"log": str(oracle.path), **arguments},
        queue=contract.queue,
        serializer=contract.serializer,
        result_type=int,
    )


async def served(client: AsyncCelery, oracle: Oracle, within: float, accepted: list[str]) -> float:
    """Wait until a task goes all the way; return how long that took, in s. Adds what was accepted to the list."""
    started = time.monotonic()
    while True:
        with suppress(PublishError, TransportError):
            handle = await send(client, WORK, oracle, seconds=0, value=1)
            accepted.append(handle.id)
            left = within - (time.monotonic() - started)
            assert await handle.result(timeout=max(left, 0.1)) == 1
            return time.monotonic() - started
        assert time.monotonic() - started < within, f"not within {within:g} s: a task goes all the way"
        await asyncio.sleep(0.05)
