"""Fixtures of the integration tests: real RabbitMQ and Redis, a real worker, a TCP proxy to break things with.

How it works: addresses come from the environment that `./stack test` sets. One worker process serves the whole
session on a queue of its own, so sessions beside each other do not meet.

What belongs here: starting, addressing and breaking servers. What is asserted stands in the tests.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from amqp import Channel
from celery import Celery

from async_celery import AsyncCelery
from async_celery.publisher import AmqpBroker
from async_celery.recording import CeleryRecorder
from async_celery.results import RedisBackend
from async_celery.task_ids import TaskIds

from .environments import Environments
from .rabbitmq_server import RabbitServer
from .redis_server import RedisServer

KEY = b"a key for tests only"


def pytest_configure() -> None:
    if "RABBITMQ_PORT" not in os.environ:
        raise pytest.UsageError("integration tests need real servers: run `./stack test`")


class Address:
    """Where a server listens, and the URL that leads there, or to a proxy in front of it."""

    def __init__(self, *, host: str, port: int, url: str) -> None:
        self.host, self.port, self._url = host, port, url

    def url(self, port: int | None = None) -> str:
        return self._url.format(port=port or self.port)


@pytest.fixture(scope="session")
def broker() -> Address:
    env = os.environ
    login = f"{env['RABBITMQ_USER']}:{env['RABBITMQ_PASSWORD']}"
    host, vhost = env["RABBITMQ_HOST"], env["RABBITMQ_VHOST"]
    return Address(
        host=host,
        port=int(env["RABBITMQ_PORT"]),
        url=f"amqp://{login}@{host}:{{port}}/{vhost.replace('/', '%2F')}",
    )


@pytest.fixture(scope="session")
def backend() -> Address:
    env = os.environ
    host = env["REDIS_HOST"]
    return Address(
        host=host,
        port=int(env["REDIS_PORT"]),
        url=f"redis://:{env['REDIS_PASSWORD']}@{host}:{{port}}/{env['REDIS_DB']}",
    )


@pytest.fixture(scope="session")
def redis_client(backend: Address) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(backend.url()) as client:
        yield client


@contextlib.contextmanager
def temporary_queue(broker: Address, prefix: str) -> Iterator[str]:
    """Think of a queue's name; in the end delete the queue, whoever declared it."""
    name = f"{prefix}-{uuid4()}"
    yield name
    with Celery(broker=broker.url(), set_as_current=False).connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(name)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def redis_server(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    server = RedisServer(tmp_path, *certificate)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def rabbit_server(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[RabbitServer]:
    """A RabbitMQ of the tests' own; whoever changes it, changes it back."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"), *certificate)
    try:
        server.start()
        yield server
    finally:
        server.close()


BrokerFactory = Callable[..., AmqpBroker]


@pytest.fixture
async def make_broker(broker: Address) -> AsyncIterator[BrokerFactory]:
    """Return a function that makes publishers; `url` leads to the real server when None."""
    made: list[AmqpBroker] = []

    def make(
        url: str | None = None, *, timeout: float = 5, options: dict[str, Any] | None = None, **conf: Any
    ) -> AmqpBroker:
        app = Celery("tests", broker=url or broker.url(), set_as_current=False)
        app.conf.update(conf)
        recorder = CeleryRecorder(app, new_child_id=lambda: str(uuid4()))
        made.append(AmqpBroker(app, recorder=recorder, publish_timeout=timeout, **(options or {})))
        return made[-1]

    yield make
    for publisher in made:
        await publisher.aclose()


ResultsFactory = Callable[..., RedisBackend]


@pytest.fixture
async def make_results(redis_server: RedisServer) -> AsyncIterator[ResultsFactory]:
    """Return a function that makes backends; `url` leads to `redis_server` when None."""
    made: list[RedisBackend] = []

    def make(
        url: str | None = None, *, ids: TaskIds | None = None, timeout: float = 2, **conf: Any
    ) -> RedisBackend:
        app = Celery(backend=url or redis_server.url(), set_as_current=False)
        app.conf.update(conf)
        made.append(RedisBackend(app, ids=ids or TaskIds(KEY), backend_timeout=timeout))
        return made[-1]

    yield make
    for results in made:
        await results.aclose()


@pytest.fixture(scope="session")
def queue(broker: Address) -> Iterator[str]:
    with temporary_queue(broker, "async-celery-test") as name:
        yield name


@contextlib.contextmanager
def running_worker(
    folder: Path,
    *,
    broker_url: str,
    backend_url: str,
    queue: str,
    processes: int,
    python: str | Path = sys.executable,
    options: Sequence[str] = (),
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker, ready to take the sample tasks from `queue`; its log and marks are kept in `folder`."""
    ready, log = folder / "ready", folder / "log"
    command = [str(python), "-m", "celery", "-A", "sample_tasks:app", "worker", "--pool", "prefork"]
    command += ["-c", str(processes), "-Q", queue, "-n", f"{queue}@%h", "--without-gossip", "--without-mingle"]
    command += ["--loglevel", "INFO", *options]
    env = {
        **os.environ,
        "SAMPLE_BROKER": broker_url,
        "SAMPLE_BACKEND": backend_url,
        "SAMPLE_QUEUE": queue,
        "SAMPLE_READY_FILE": str(ready),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=Path(__file__).parent, env=env, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the worker did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield process
    finally:
        # Not TERM: a test that failed may have left a task waiting at its gate. The children die with it.
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def worker(
    broker: Address, backend: Address, queue: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["subprocess.Popen[bytes]"]:
    """The worker, ready to take tasks from `queue`."""
    folder = tmp_path_factory.mktemp("worker")
    urls = {"broker_url": broker.url(), "backend_url": backend.url()}
    with running_worker(folder, **urls, queue=queue, processes=2) as process:
        yield process


@pytest.fixture(scope="session")
def environments(request: pytest.FixtureRequest) -> Environments:
    """Python environments besides the tests' own."""
    assert request.config.cache is not None
    return Environments(request.config.cache.mkdir("async-celery-environments"))


@pytest.fixture
def channel(broker: Address) -> Iterator[Channel]:
    """A channel of the test's own, to look behind the client's back."""
    with Celery(broker=broker.url(), set_as_current=False).connection_for_write() as connection:
        channel: Any = connection.default_channel
        yield channel


@pytest.fixture
def spare_queue(channel: Channel) -> Iterator[str]:
    """A queue that no worker reads."""
    name = f"nobody-{uuid4()}"
    yield name
    channel.queue_delete(name)


CeleryFactory = Callable[..., Celery]


@pytest.fixture
def make_celery(broker: Address, backend: Address, queue: str) -> CeleryFactory:
    """Return a producer's Celery app; `broker_port` and `backend_port` lead through a proxy."""

    def make(*, broker_port: int | None = None, backend_port: int | None = None, **conf: Any) -> Celery:
        app = Celery(broker=broker.url(broker_port), backend=backend.url(backend_port), set_as_current=False)
        defaults = {"broker_transport_options": {"confirm_publish": True}, "task_default_queue": queue}
        app.conf.update(defaults | conf)
        return app

    return make


@pytest.fixture
def celery_app(make_celery: CeleryFactory) -> Celery:
    return make_celery()


@pytest.fixture
async def client(celery_app: Celery) -> AsyncIterator[AsyncCelery]:
    """A client to the real servers. The worker is a fixture of its own: without it, tasks stay queued."""
    async with AsyncCelery(celery_app, task_id_key=KEY) as client:
        yield client


class Gate:
    """A file that the tasks `hold` and `progress` wait for, and the log of those that came by."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self) -> None:
        Path(self.path).touch()

    def log(self) -> list[str]:
        return Path(f"{self.path}.log").read_text().splitlines()


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Return a function that makes closed gates; opened in the end, so that no task outlives its test."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate(tmp_path / f"gate-{len(gates)}"))
        return gates[-1]

    yield make
    for gate in gates:
        gate.open()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Gate:
    return make_gate()


class Notes:
    """The file that the tasks `note` and `third_time` write to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def read(self) -> list[str]:
        return Path(self.path).read_text().splitlines()


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


class Proxy:
    """A TCP proxy on loopback that can refuse connections, or swallow what is sent through it."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self.port = 0

    async def open(self) -> None:
        """Accept and forward."""
        self.open_again()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Reset what is connected, and refuse what wants to connect."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def reset(self) -> None:
        """Cut what is connected now."""
        for stream in self._streams:
            stream.transport.abort()

    def swallow(self) -> None:
        """Accept, but pass nothing on in either direction."""
        self._flows.clear()

    def open_again(self) -> None:
        """Pass on again, also what was held back."""
        self._flows.set()

    async def close(self) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            out_reader, out_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._streams |= {writer, out_writer}
        for source, sink in ((reader, out_writer), (out_reader, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        sink.close()
        self._streams.discard(sink)


@pytest.fixture
async def broker_proxy(broker: Address) -> AsyncIterator[Proxy]:
    proxy = Proxy(broker.host, broker.port)
    await proxy.open()
    yield proxy
    await proxy.close()


@pytest.fixture
async def backend_proxy(backend: Address) -> AsyncIterator[Proxy]:
    proxy = Proxy(backend.host, backend.port)
    await proxy.open()
    yield proxy
    await proxy.close()


Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Return a function that waits, with a deadline, until a condition holds."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await condition():  # noqa: ASYNC110 (other processes set no events)
                await asyncio.sleep(0.02)

    return wait
