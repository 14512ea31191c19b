"""Idempotency keys when something breaks between claiming a key and sending its task: row P16, and P2 with a key.

The oracle: the worker's log tells how often a task was run, whatever the clients were answered.
"""

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from processes import Api, Worker, running_api, unused_port, wait_until
from proxy import Proxy, proxy_to
from test_idempotency import MULTIPLY, executions, factors, new_key, stored_keys

FULL = float(os.environ.get("FAULT_SCALE", "0")) > 0
TIMEOUTS = {"PUBLISH_TIMEOUT_SECONDS": "0.5", "BACKEND_TIMEOUT_SECONDS": "0.5"}
LEASE = 2 * 0.5 + 0.5 + 1  # s, of a key, with these


@pytest.fixture(scope="module")
def broker() -> Iterator[Proxy]:
    with proxy_to(os.environ["RABBITMQ_PORT"]) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def behind(broker: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API that reaches the broker through the proxy, and PostgreSQL not at all."""
    log = tmp_path_factory.mktemp("behind") / "log"
    with running_api(log, RABBITMQ_PORT=broker.port, POSTGRES_PORT=unused_port(), **TIMEOUTS) as api:
        yield api


def started(worker: Worker) -> int:
    return worker.log.read_text().count("] received")


def sends(api: Api) -> bool:
    return httpx.post(api.url + MULTIPLY, json=factors(6, 7)).status_code == 200


def post_async(url: str, body: dict[str, int], key: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{url}{MULTIPLY}/async", json=body, headers=key, timeout=10)


def test_fifty_times_each_key_at_once(client: httpx.Client, worker: Worker, api: Api, second_api: Api) -> None:
    keys = [new_key() for _ in range(50 if FULL else 4)]
    urls = (api.url, second_api.url)

    async def post_all() -> list[tuple[int, httpx.Response]]:
        # Most of them wait for a connection of the client, all in all as long as all take.
        timeout, limits = httpx.Timeout(30, pool=None), httpx.Limits(max_connections=50)
        async with httpx.AsyncClient(timeout=timeout, limits=limits) as http:

            async def post(number: int, repeat: int) -> tuple[int, httpx.Response]:
                url = f"{urls[repeat % 2]}{MULTIPLY}/async"
                return number, await http.post(url, json=factors(number, 1), headers=keys[number])

            requests = (post(number, repeat) for number in range(len(keys)) for repeat in range(50))
            return await asyncio.gather(*requests)

    answers = asyncio.run(post_all())
    statuses = Counter(answer.status_code for _, answer in answers)
    ids = {(number, answer.json()["id"]) for number, answer in answers if answer.status_code == 202}
    runs = [executions(client, worker, task_id) for _, task_id in ids]
    print(f"P16: {len(keys)} keys × 50, answers {dict(statuses)}, tasks {len(ids)}, runs {Counter(runs)}")
    assert set(statuses) <= {202, 409}
    assert len(ids) == len(keys)
    assert set(runs) == {1}


def test_killed_between_claim_and_publish(
    client: httpx.Client, worker: Worker, api: Api, second_api: Api, broker: Proxy, tmp_path: Path
) -> None:
    key, body = new_key(), factors(11, 13)
    name = "idempotency:" + key["Idempotency-Key"].strip('"')
    with (
        running_api(tmp_path / "log", RABBITMQ_PORT=broker.port, **TIMEOUTS) as victim,
        stored_keys() as store,
        ThreadPoolExecutor() as pool,
    ):
        # What is held back from now on is held back on a connection that has worked.
        assert sends(victim)
        before = started(worker)
        broker.keep_from_server()
        lost = pool.submit(post_async, victim.url, body, key)
        wait_until(lambda: bool(store.exists(name)), 2, "the key is claimed")
        victim.process.kill()
        claimed = time.monotonic()
        assert lost.exception() is not None
        broker.cut()
        broker.speak()
        early = post_async(second_api.url, body, key)
        assert (early.status_code, early.headers["retry-after"]) == (409, "2")
        assert started(worker) == before

        answers: list[httpx.Response] = []

        def repeats_are_accepted() -> bool:
            # Two at a time, from two processes: one of them takes the key over.
            answers[:] = pool.map(lambda url: post_async(url, body, key), (second_api.url, api.url))
            return any(answer.status_code == 202 for answer in answers)

        wait_until(repeats_are_accepted, LEASE + 2, "a repeat takes the key over")
        waited = time.monotonic() - claimed
    assert waited > LEASE - 0.5
    (task_id,) = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert client.get(f"/v1/tasks/{task_id}", params={"wait": 10}).json()["result"] == 11 * 13
    again = client.post(MULTIPLY, json=body, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, task_id)
    runs = executions(client, worker, task_id)
    print(f"P16 killed between claim and publish: taken over after {waited:.1f} s, lost 0, runs {runs}")
    assert runs == 1
    assert started(worker) - before == runs + 1


@pytest.mark.parametrize("direction", ["to the server", "to the client"])
def test_not_confirmed_then_sent_again(
    client: httpx.Client, worker: Worker, api: Api, behind: Api, broker: Proxy, direction: str
) -> None:
    """P2: 503, "may or may not run"; with a key a retry is safe, and need not wait."""
    key, body = new_key(), factors(17, 19)
    wait_until(lambda: sends(behind), 10, "the broker is reached through the proxy")
    (broker.keep_from_server if direction == "to the server" else broker.keep_from_clients)()
    unknown = post_async(behind.url, body, key)
    assert unknown.status_code == 503
    assert "Idempotency-Key" in unknown.json()["detail"]
    if direction == "to the client":
        # The broker has it, and so has the worker.
        wait_until(lambda: f"[{unknown.json()['taskId']}] succeeded" in worker.log.read_text(), 5, "it has run")
    answer = post_async(api.url, body, key)
    broker.cut()
    broker.speak()
    assert answer.status_code == 202, answer.text
    task_id = answer.json()["id"]
    assert client.get(f"/v1/tasks/{task_id}", params={"wait": 10}).json()["result"] == 17 * 19
    assert unknown.json().get("taskId") in (None, task_id)
    runs = executions(client, worker, task_id)
    print(f"P2 with a key, lost on its way {direction}: 503, then 202, lost 0, runs {runs}")
    assert runs == 1


def test_without_redis_nothing_is_sent(client: httpx.Client, worker: Worker, tmp_path: Path) -> None:
    with running_api(tmp_path / "log", REDIS_PORT=unused_port()) as api:
        before = started(worker)
        begun = time.monotonic()
        answer = post_async(api.url, factors(6, 7), new_key())
        assert time.monotonic() - begun < 2
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "127.0.0.1" not in answer.text
        # Without a key the twin needs no Redis: the worker has it by now, and nothing else.
        assert post_async(api.url, factors(6, 7), {}).status_code == 202
        wait_until(lambda: started(worker) == before + 1, 10, "the task without a key is received")
        executions(client, worker, str(uuid.uuid4()))
        assert started(worker) == before + 2


def test_without_postgresql_keys_work(worker: Worker, behind: Api, broker: Proxy) -> None:
    broker.speak()
    wait_until(lambda: sends(behind), 10, "the broker is reached through the proxy")
    assert httpx.get(behind.url + "/v1/countries").status_code == 503
    key = new_key()
    answers = [httpx.post(behind.url + MULTIPLY, json=factors(6, 7), headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
