"""The reaper: ends tasks whose messages no worker will take any more, and workflows that are past their deadline.

Run it beside the workers, with the same app: `python -m async_celery.worker.reaper -A tasks:app -l INFO`.

How it works: one loop without threads. Each message in the dead letters' inbox is settled by what RabbitMQ says
of its newest death. One that has expired in its queue was waited for in vain: its task becomes REVOKED
(`expired`), and that is all. Every other one ends its task as a FAILURE, unless that has ended already, and is
parked with the reason, until somebody deletes or replays it. Workers store most of these failures themselves;
the reaper stores those that they could not. Once a second it looks at the workflows that are due (`sweeper.py`).

A message is acknowledged last, when its task has ended for certain and its copy is confirmed; each step before
can be done twice. So the reaper can be stopped or killed anywhere, several may run beside each other, and while
Redis or the broker is away it waits. Wrong settings end it with code 1 and a message. Each look at the workflows
touches the heartbeat's file (`heartbeat.py`), as a worker does: it gets old while the reaper waits or hangs.

What belongs here: the process, and the judgement of one dead letter. Queues and headers are `dead_letters.py`'s.
"""

import argparse
import contextlib
import logging
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, PreconditionFailed
from celery import states
from celery.app.utils import find_app
from celery.exceptions import ImproperlyConfigured, Reject
from kombu import Connection, Consumer
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError, RedisError

from async_celery.worker import dead_letters
from async_celery.worker.backend import backend_of
from async_celery.worker.connection import PASSING
from async_celery.worker.consumer import context_of, refusal_of
from async_celery.worker.heartbeat import HeartbeatFile
from async_celery.worker.policy import policy_of
from async_celery.worker.subject import busy_with, subject_of_message
from async_celery.worker.sweeper import Sweeper

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

_SWEEP_INTERVAL = 1.0  # s
_PREFETCH = 50
_PAUSE = 1.0  # s, after a server has failed
_TIMEOUTS = {"read_timeout": 10, "write_timeout": 10}  # s, for each answer of the broker
_LONGEST_TEXT = 1024  # characters; a message's headers must fit into one frame

_PASSING = (AMQPError, OSError, OperationalError, *PASSING, Reject)
"""What says that a server is not there, or cannot now: `Reject` comes from a chord's body that is not taken.

What Redis answers to the content of one message is none of it.
"""


class DeliveryLimitReached(Exception):  # noqa: N818 (the names that clients read)
    """A message came back unfinished more often than its queue allows."""


class QueueOverflow(Exception):  # noqa: N818
    """A queue that was full dropped a message."""


class Refused(Exception):  # noqa: N818
    """A worker refused a message, and nobody knows why any more."""


_ENDINGS = {
    "delivery_limit": DeliveryLimitReached(
        "its message came back unfinished as often as the queue's x-delivery-limit allows: see the worker's log"
    ),
    "maxlen": QueueOverflow("the queue was full and dropped it: set its x-overflow to reject-publish"),
}
_REFUSED = Refused("a worker refused its message: the reason stands in the worker's log")
_EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True)
class Death:
    """Why a queue gave up a message: RabbitMQ's reason, and the queue's name."""

    reason: str
    queue: str

    @classmethod
    def of(cls, message: Any) -> "Death":
        """Read the newest death, which comes first; delayed messages bring along those in the delay's queues."""
        match (message.headers or {}).get("x-death"):
            case [dict() as newest, *_]:
                pass
            case _:
                newest = {}
        return cls(
            reason=str(newest.get("reason", "unknown")),
            # A work queue's dead letters have its name for routing key.
            queue=str(newest.get("queue") or message.delivery_info["routing_key"]),
        )


class Reaper:
    """The loop. One per process."""

    def __init__(self, app: "Celery") -> None:
        """Take the workers' app. Opens no connection.

        Raises:
            ImproperlyConfigured: its results are not in one Redis server.
        """
        self._app = app
        backend = backend_of(app)
        # A server that is away ends a round of the loop, which begins the next one when it is back.
        backend.always_retry = False
        self._backend: Any = backend
        self._sweeper = Sweeper(app)
        path = policy_of(app).heartbeat_file
        self._heartbeat = None if path is None else HeartbeatFile(path)
        self._next_sweep = 0.0
        self._arrived: deque[Any] = deque()

    def run(self) -> NoReturn:
        """Work for ever.

        Raises:
            SystemExit: the settings are wrong; the message says which.
        """
        is_reported = False
        while True:
            try:
                with self._connected() as (inbox, parked):
                    logger.info("The reaper is ready.")
                    is_reported = False
                    self._work(inbox, parked)
            except (AccessRefused, NotAllowed) as exc:
                raise SystemExit(
                    f"The broker refuses the reaper: {exc}. Check broker_url: user, password, vhost."
                ) from exc
            except PreconditionFailed as exc:
                raise SystemExit(
                    f"A queue of dead letters exists with other arguments: {exc}. Let it be worked off, delete "
                    "it, and start again: it is declared anew."
                ) from exc
            except AuthenticationError as exc:
                raise SystemExit(
                    f"Redis refuses the reaper: {exc}. Check result_backend: user, password."
                ) from exc
            except (*_PASSING, RedisError) as exc:
                log = logger.debug if is_reported else logger.warning
                log("The reaper waits for its servers: %s: %s", type(exc).__name__, exc)
                is_reported = True
            time.sleep(_PAUSE)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[Connection, Connection]]:
        """Open connections to consume and to publish: a broker that takes no messages still gives them."""
        self._backend.client.ping()
        inbox = self._app.connection_for_read(transport_options=_TIMEOUTS)
        # Confirms tell of a lost one; heartbeats would have to be read.
        parked = self._app.connection_for_write(
            heartbeat=0, transport_options=_TIMEOUTS | {"confirm_publish": True}
        )
        try:
            inbox.ensure_connection(max_retries=0)
            dead_letters.declare(inbox)
            yield inbox, parked
        finally:
            # Without a farewell, for which a server that hangs would let us wait.
            for connection in (inbox, parked):
                connection.collect()
            # The broker delivers them again.
            self._arrived.clear()

    def _work(self, inbox: Connection, parked: Connection) -> NoReturn:
        consumer = Consumer(
            inbox.default_channel,
            [dead_letters.INBOX],
            # Settled by the loop: publishing one from within a callback would let the next one in.
            on_message=self._arrived.append,
            on_decode_error=lambda message, _: self._arrived.append(message),
            accept=self._app.conf.accept_content,
            prefetch_count=_PREFETCH,
            auto_declare=False,
        )
        consumer.consume()
        while True:
            while self._arrived:
                message = self._arrived.popleft()
                with busy_with(subject_of_message(message)):
                    self._settle(message, parked)
            if time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + _SWEEP_INTERVAL
                self._sweeper.sweep()
                if self._heartbeat is not None:
                    self._heartbeat.touch()
            with contextlib.suppress(socket.timeout):
                inbox.drain_events(timeout=max(0.01, self._next_sweep - time.monotonic()))
            inbox.heartbeat_check()

    def _settle(self, message: Any, parked: Connection) -> None:
        """End a message's task, park the message if it is to be looked at, and acknowledge it."""
        death = Death.of(message)
        message.headers = dead_letters.without_deaths(message.headers or {})
        task_id, name = message.headers.get("id"), message.headers.get("task")
        meta: dict[str, Any] | None
        try:
            meta = self._end(message, death) if isinstance(task_id, str) else None
        except _PASSING:
            raise
        except Exception:
            # Whatever is in it: the next one must have its turn, and this one must not be lost.
            logger.exception("The end of task %s[%s] cannot be stored", name, task_id)
            meta = None
        if meta is not None and meta["status"] != states.FAILURE:
            # It expired, was cancelled, or had succeeded before: there is nothing to look into.
            logger.info("Task %s[%s] (%s in %s) is %s", name, task_id, death.reason, death.queue, meta["status"])
        elif meta is None and death.reason == _EXPIRED and not isinstance(task_id, str):
            logger.warning("A message without an id expired in %s", death.queue)
        else:
            headers = self._headers(message, death, meta)
            dead_letters.publish_copy(parked, message, headers, exchange="", routing_key=dead_letters.PARKED.name)
            logger.warning(
                "Task %s[%s] is a dead letter (%s in %s): %s: %s",
                name,
                task_id,
                death.reason,
                death.queue,
                headers[dead_letters.ERROR_TYPE],
                headers[dead_letters.ERROR],
            )
        message.ack()

    def _end(self, message: Any, death: Death) -> dict[str, Any]:
        """Give the task a terminal state, unless it has one; return what is stored then."""
        request = context_of(message)
        request.hostname = f"reaper@{socket.gethostname()}"
        task_id = str(request.id)
        if self._stored(task_id)["status"] in states.READY_STATES:
            self._backend.follow_up(request)
        elif death.reason == _EXPIRED:
            self._backend.mark_as_revoked(task_id, _EXPIRED, request=request)
        else:
            self._backend.mark_as_failure(task_id, self._error(message, death), request=request)
        return self._stored(task_id)

    def _stored(self, task_id: str) -> dict[str, Any]:
        """Return what is stored for a task: an error is its dict, as it stands there."""
        payload = self._backend.get(self._backend.get_key_for_task(task_id))
        meta: dict[str, Any] = {"status": states.PENDING} if payload is None else self._backend.decode(payload)
        return meta

    def _error(self, message: Any, death: Death) -> Exception:
        return _ENDINGS.get(death.reason) or refusal_of(message, known=self._app.tasks) or _REFUSED

    def _headers(self, message: Any, death: Death, meta: dict[str, Any] | None) -> dict[str, Any]:
        """Return what the parked message says of itself."""
        headers = message.headers or {}
        task_id = headers.get("id")
        failure = None if meta is None else meta.get("result")
        if not isinstance(failure, dict):
            error = self._error(message, death)
            type_, text = type(error).__name__, str(error)
        else:
            type_, arguments = str(failure.get("exc_type")), failure.get("exc_message")
            text = ", ".join(map(str, arguments)) if isinstance(arguments, list | tuple) else str(arguments)
        told = {
            dead_letters.ID: task_id if dead_letters.is_plain(task_id) else str(uuid4()),
            dead_letters.REASON: death.reason,
            dead_letters.ERROR_TYPE: type_,
            dead_letters.ERROR: text[:_LONGEST_TEXT],
            dead_letters.QUEUE: death.queue,
            dead_letters.AT: time.time(),
        }
        if meta is not None and isinstance(attempts := meta.get("attempts"), int):
            told[dead_letters.ATTEMPTS] = attempts
        if dead_letters.can_be_sent({**headers, **told}):
            return {**headers, **told}
        # Nothing else of it may keep the inbox from being emptied.
        return {**told, "id": str(task_id)[:_LONGEST_TEXT], "task": str(headers.get("task"))[:_LONGEST_TEXT]}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a reaper until it is stopped by SIGTERM or SIGINT.

    Args:
        arguments: of the command line.

    Raises:
        SystemExit: always in the end; with a message when the settings are wrong.
    """
    parser = argparse.ArgumentParser("python -m async_celery.worker.reaper", description=__doc__.splitlines()[0])
    parser.add_argument("-A", "--app", required=True, help="the workers' app: module:attribute")
    levels = logging.getLevelNamesMapping()
    parser.add_argument("-l", "--loglevel", default="INFO", type=str.upper, choices=levels)
    options = parser.parse_args(arguments)
    app: Celery = find_app(options.app)
    app.loader.import_default_modules()
    app.finalize()
    app.log.setup(loglevel=options.loglevel)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Raised wherever it is: nothing is lost by that.
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        reaper = Reaper(app)
    except ImproperlyConfigured as exc:
        raise SystemExit(str(exc)) from exc
    reaper.run()


if __name__ == "__main__":
    main()
