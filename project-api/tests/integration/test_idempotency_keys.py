"""The claims themselves, on a real Redis: who holds a key, for how long, and under which id."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from proxy import proxy_to
from redis.asyncio import Redis
from test_idempotency import stored_keys

from app.celery.idempotency import IdempotencyKeys
from app.core.idempotency import Fingerprint, KeyInProgressError, KeyReusedError
from async_celery import BackendError

LEASE = 0.2  # s
REQUEST = Fingerprint("POST", "/v1/x?")


@asynccontextmanager
async def connected(port: str) -> AsyncIterator[Redis]:
    password, db = os.environ["REDIS_PASSWORD"], int(os.environ["REDIS_DB"])
    async with Redis(port=int(port), password=password, db=db) as client:
        yield client


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    async with connected(os.environ["REDIS_PORT"]) as client:
        yield client


@pytest.fixture
def keys(redis: Redis) -> IdempotencyKeys:
    return IdempotencyKeys(redis, timeout=1.5, lease=LEASE, task_deadline=3600)


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


class Dying(IdempotencyKeys):
    """A process that is killed while it sends: it settles nothing."""

    async def _settle(self, *args: object) -> None:
        pass


async def die_holding(redis: Redis, key: str, new_id: str, *, lease: float = LEASE) -> None:
    keys = Dying(redis, timeout=1.5, lease=lease, task_deadline=3600)
    async with keys.claimed(key, REQUEST, new_id=new_id) as claim:
        assert claim.task_id == new_id


async def test_what_was_sent_stands(keys: IdempotencyKeys, key: str) -> None:
    async with keys.claimed(key, REQUEST, new_id="first") as claim:
        assert (claim.task_id, claim.is_sent) == ("first", False)
    for replaces in (False, True):
        async with keys.claimed(key, REQUEST, new_id="second", replaces=replaces) as claim:
            assert (claim.task_id, claim.is_sent) == ("first", True)


async def test_one_holds_it(keys: IdempotencyKeys, key: str) -> None:
    async with keys.claimed(key, REQUEST, new_id="first"):
        with pytest.raises(KeyInProgressError):
            async with keys.claimed(key, REQUEST, new_id="second"):
                pytest.fail("two hold the key")
        with pytest.raises(KeyReusedError):
            async with keys.claimed(key, Fingerprint("POST", "/v1/y?"), new_id="second"):
                pytest.fail("another request holds the key")


async def test_the_holder_may_ask_again(redis: Redis, keys: IdempotencyKeys, key: str) -> None:
    """A reply of Redis was lost, and the client library repeats the step."""
    await die_holding(redis, key, "first")
    async with keys.claimed(key, REQUEST, new_id="first") as claim:
        assert (claim.task_id, claim.is_sent) == ("first", False)


@pytest.mark.parametrize(("replaces", "task_id"), [(False, "first"), (True, "second")])
async def test_a_failure_gives_it_back_at_once(
    keys: IdempotencyKeys, key: str, replaces: bool, task_id: str
) -> None:
    with pytest.raises(RuntimeError):
        async with keys.claimed(key, REQUEST, new_id="first"):
            raise RuntimeError("not sent, perhaps")
    async with keys.claimed(key, REQUEST, new_id="second", replaces=replaces) as claim:
        assert (claim.task_id, claim.is_sent) == (task_id, False)
    async with keys.claimed(key, REQUEST, new_id="third") as claim:
        assert (claim.task_id, claim.is_sent) == (task_id, True)


async def test_a_dead_holder_is_followed_by_one(redis: Redis, keys: IdempotencyKeys, key: str) -> None:
    await die_holding(redis, key, "first")
    await asyncio.sleep(LEASE)  # what is tested is this time
    claims: list[str] = []

    async def take_over(number: int) -> None:
        try:
            async with keys.claimed(key, REQUEST, new_id=f"other-{number}") as claim:
                if not claim.is_sent:
                    claims.append(claim.task_id)
                    await asyncio.sleep(LEASE / 4)  # it sends
        except KeyInProgressError:
            pass

    await asyncio.gather(*(take_over(number) for number in range(50)))
    assert claims == ["first"]


async def test_a_late_holder_settles_nothing(keys: IdempotencyKeys, key: str) -> None:
    """It stood still, was followed, and comes back: with a failure, or with a success of an id nobody uses."""
    with pytest.raises(RuntimeError):
        async with keys.claimed(key, REQUEST, new_id="first"):
            await asyncio.sleep(LEASE)  # what is tested is this time
            follower = keys.claimed(key, REQUEST, new_id="second", replaces=True)
            assert (await follower.__aenter__()).task_id == "second"
            raise RuntimeError("late")
    with pytest.raises(KeyInProgressError):
        async with keys.claimed(key, REQUEST, new_id="third"):
            pytest.fail("the late one gave the key back")
    await follower.__aexit__(None, None, None)
    async with keys.claimed(key, REQUEST, new_id="third") as claim:
        assert (claim.task_id, claim.is_sent) == ("second", True)


async def test_nothing_is_sent_after_the_id_s_deadline(redis: Redis, key: str) -> None:
    keys = IdempotencyKeys(redis, timeout=1.5, lease=LEASE, task_deadline=0.1)
    await die_holding(redis, key, "first", lease=0.05)
    await asyncio.sleep(0.15)  # what is tested is this time
    async with keys.claimed(key, REQUEST, new_id="second") as claim:
        assert (claim.task_id, claim.is_sent) == ("first", True)


async def test_a_key_that_expired_meanwhile_is_not_made_again(keys: IdempotencyKeys, key: str) -> None:
    with stored_keys() as store:
        for fails in (False, True):
            try:
                async with keys.claimed(key, REQUEST, new_id="first"):
                    store.delete(f"idempotency:{key}")
                    if fails:
                        raise RuntimeError
            except RuntimeError:
                pass
            assert not store.exists(f"idempotency:{key}")


async def test_a_redis_that_is_lost_while_sending_does_not_undo_it(key: str) -> None:
    with proxy_to(os.environ["REDIS_PORT"]) as proxy:
        async with connected(proxy.port) as redis:
            keys = IdempotencyKeys(redis, timeout=0.3, lease=LEASE, task_deadline=3600)
            async with keys.claimed(key, REQUEST, new_id="first") as claim:
                assert claim.task_id == "first"
                proxy.close()
            with pytest.raises(BackendError):
                async with keys.claimed(key, REQUEST, new_id="second"):
                    pytest.fail("there is no Redis")
