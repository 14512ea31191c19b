"""Idempotency keys of what is sent: in Redis, beside the results, so that tasks need no PostgreSQL.

How it works: a key stands for one task id. The first request *holds* the key while it sends the task, and marks
it as sent; from then on every repeat waits for that same task. Each step is one script, which Redis runs as a
whole: of any number of requests with one key, one holds it.

| a repeat finds the key | it |
|---|---|
| sent | gets the task's id |
| held | is refused: `KeyInProgressError` |
| held for longer than sending takes: its process has died | takes it over and sends again, under the same id |
| given back: sending failed, perhaps only the broker's confirm was lost | the same, at once |
| with another request's fingerprint | is refused: `KeyReusedError` |

A task that was sent twice has one id: the worker does not run again what has finished, and one result is kept.
It runs twice only if it was sent, its sender died or heard nothing, and it has not finished when the second
message arrives. A workflow's tasks have new ids each time, so they may run twice; the first result stays.

Under its id a task counts as queued until its deadline (`async_celery.task_ids`). What nobody has sent by then is
not sent any more: the repeat gets the id, which says whether it has a result or has expired.

What belongs here: these keys. Sending under them is in `submission.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NoReturn

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from app.core.config import Settings
from app.core.idempotency import LIFETIME, Fingerprint, KeyInProgressError, KeyReusedError
from async_celery import BackendError, Unsupported

logger = logging.getLogger("app.idempotency")

_MARGIN = 1.0
"""How much longer a key is held than sending can take, in s: for a process that has much to do."""

_SCHEMES = ("redis://", "rediss://")
"""What the URL of a Redis server begins with."""

_CLAIM = """
local key, fingerprint, holder = KEYS[1], ARGV[1], ARGV[2]
local lease, deadline, lifetime, replaces = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('HMGET', key, 'fingerprint', 'task', 'holder', 'held_until', 'claimed')
local task, others, held_until, claimed = found[2], found[3], tonumber(found[4]), tonumber(found[5])
if not found[1] then
    redis.call('HSET', key, 'fingerprint', fingerprint, 'task', holder, 'holder', holder,
        'held_until', now + lease, 'claimed', now)
    redis.call('EXPIRE', key, lifetime)
    return {'held', holder}
elseif found[1] ~= fingerprint then
    return {'reused'}
elseif not others then
    return {'sent', task}
elseif others ~= holder and now < held_until then
    return {'in progress'}
elseif replaces then
    task = holder
elseif now > claimed + deadline then
    return {'sent', task}
end
redis.call('HSET', key, 'task', task, 'holder', holder, 'held_until', now + lease)
return {'held', task}
"""
"""Hold a key, or say what it stands for. A holder is named by an id of its own: asked twice, it holds it still.
Times are in ms, by Redis' clock."""

_SENT = """
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
    redis.call('HDEL', KEYS[1], 'holder', 'held_until', 'claimed')
end
"""

_GIVE_BACK = """
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'held_until', 0)
end
"""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a key stands for: a task, which an earlier request has sent, or this one has to."""

    task_id: str
    is_sent: bool


class IdempotencyKeys:
    """The keys. One per process, made by `open_idempotency_keys`."""

    def __init__(self, redis: Redis, *, timeout: float, lease: float, task_deadline: float) -> None:
        """Take a client.

        Args:
            redis: binary, as it is by default.
            timeout: in s, for each step.
            lease: in s, for how long a key is held at most: longer than sending can take.
            task_deadline: in s, for how long an id counts as queued.
        """
        self._timeout = timeout
        self._lease = lease
        self._task_deadline = task_deadline
        self._claim = redis.register_script(_CLAIM)
        self._sent = redis.register_script(_SENT)
        self._give_back = redis.register_script(_GIVE_BACK)

    @contextlib.asynccontextmanager
    async def claimed(
        self, key: str, fingerprint: Fingerprint, *, new_id: str, replaces: bool = False
    ) -> AsyncIterator[Claim]:
        """Claim a key while its task is sent: the block sends it, unless it was sent before.

        A block that raises gives the key back: a repeat may send again at once.

        Args:
            key: the client's.
            fingerprint: of its request.
            new_id: the task's id, if there is none yet.
            replaces: whether a key that is taken over stands for `new_id` from then on: for what is stored under
                that id already.

        Raises:
            KeyReusedError: the key belongs to another request.
            KeyInProgressError: another request is sending the task just now.
            BackendError: Redis did not answer; nothing was sent.
        """
        answer = await self._run(
            self._claim,
            key,
            fingerprint.digest(),
            new_id,
            round(self._lease * 1000),
            round(self._task_deadline * 1000),
            LIFETIME,
            int(replaces),
        )
        found = answer[0]
        if found == b"reused":
            raise KeyReusedError
        if found == b"in progress":
            raise KeyInProgressError
        claim = Claim(task_id=answer[1].decode(), is_sent=found == b"sent")
        if claim.is_sent:
            yield claim
            return
        try:
            yield claim
        except BaseException:
            await self._settle(self._give_back, key, new_id)
            raise
        await self._settle(self._sent, key, new_id)

    async def _settle(self, step: AsyncScript, key: str, holder: str) -> None:
        try:
            await self._run(step, key, holder)
        except BackendError as error:
            # It stays held until its lease is over; the client is told all the same what became of its request.
            logger.warning("an idempotency key stays held for up to %g s: %s", self._lease, error)

    async def _run(self, script: AsyncScript, key: str, *args: bytes | str | int) -> list[bytes]:
        try:
            async with asyncio.timeout(self._timeout):
                answer: list[bytes] = await script(keys=[f"idempotency:{key}"], args=args)
        except (RedisError, OSError, TimeoutError) as error:
            raise BackendError(f"Redis keeps no idempotency key: {error}") from error
        return answer


class NoIdempotencyKeys(IdempotencyKeys):
    """Where results are not in Redis: there is nowhere to keep keys."""

    def __init__(self) -> None:
        """There is nothing to take."""

    def claimed(self, *_: object, **__: object) -> NoReturn:
        """See `IdempotencyKeys`.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(
            "only Redis keeps idempotency keys of tasks: send the request without one, or set RESULT_BACKEND to "
            "a redis:// URL"
        )


@contextlib.asynccontextmanager
async def open_idempotency_keys(settings: Settings) -> AsyncIterator[IdempotencyKeys]:
    """Make the client of Redis, close its connections at the end. Nothing is opened until the first key."""
    if not settings.backend.startswith(_SCHEMES):
        yield NoIdempotencyKeys()
        return
    timeout = settings.backend_timeout_seconds
    pool = BlockingConnectionPool.from_url(
        settings.backend,
        max_connections=10,
        timeout=timeout,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        socket_keepalive=True,
        # A pooled connection may have died with its server: one more try, on a new one. Steps can be repeated.
        retry=Retry(NoBackoff(), 1),
    )
    redis = Redis.from_pool(pool)
    # A workflow is stored, then published; it may have more messages than are sent at a time.
    lease = 2 * settings.publish_timeout_seconds + settings.backend_timeout_seconds + _MARGIN
    try:
        yield IdempotencyKeys(redis, timeout=timeout, lease=lease, task_deadline=settings.task_deadline_seconds)
    finally:
        await redis.aclose()
