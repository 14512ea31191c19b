"""The API killed, ended or cut off from its broker under load: nothing accepted is lost, refusals are quick.

Rows P11, P12 and P13 of the fault matrix. The oracle: every id that a client was given (202) ends SUCCESS.
What breaks RabbitMQ, Redis or PostgreSQL themselves is in e2e.
"""

import asyncio
import os
import re
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from processes import Api, running_api, wait_until

FULL = float(os.environ.get("FAULT_SCALE", "0")) > 0
MULTIPLY = "/v1/project-worker/integer-multiplication/async"
CLIENTS = 8


@dataclass
class Load:
    """What the clients saw; `broken` counts requests that got no answer at all."""

    answers: Counter[int] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    broken: int = 0


@contextmanager
def load(api: Api) -> Iterator[Load]:
    """Send tasks from several clients, until the block ends or the API has gone."""
    seen, ended = Load(), threading.Event()

    def send() -> None:
        with httpx.Client(base_url=api.url, timeout=15) as http:
            while not ended.is_set():
                try:
                    answer = http.post(MULTIPLY, json={"multiplicand": 6, "multiplier": 7})
                except httpx.TransportError:
                    seen.broken += 1
                    return
                seen.answers[answer.status_code] += 1
                if answer.status_code == 202:
                    seen.accepted.append(answer.json()["id"])

    threads = [threading.Thread(target=send) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def check_oracle(http: httpx.Client, seen: Load, row: str) -> None:
    pending = list(seen.accepted)

    def all_done() -> bool:
        pending[:] = [task for task in pending if http.get(f"/v1/tasks/{task}").json()["status"] != "SUCCESS"]
        return not pending

    wait_until(all_done, 60, f"every accepted task succeeds; lost: {pending}")
    print(f"{row}: accepted {len(seen.accepted)}, lost 0, answers {dict(seen.answers)}, broken {seen.broken}")
    assert len(seen.accepted) > CLIENTS


def test_killed_while_it_publishes(client: httpx.Client, tmp_path: Path) -> None:
    def kill(log: Path) -> Load:
        with running_api(log) as api, load(api) as seen:
            wait_until(lambda: len(seen.accepted) > 20, 10, "there is some load")
            api.process.kill()
            wait_until(lambda: seen.broken == CLIENTS, 15, "every client has noticed")
        return seen

    for attempt in range(20 if FULL else 2):
        seen = kill(tmp_path / f"log-{attempt}")
        assert set(seen.answers) == {202}
        check_oracle(client, seen, "P12 API kill -9")


def test_ended_under_load(client: httpx.Client, tmp_path: Path) -> None:
    with running_api(tmp_path / "log") as api, load(api) as seen:
        wait_until(lambda: len(seen.accepted) > 20, 10, "there is some load")
        api.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        api.process.wait(10)
        print(f"exit after {time.monotonic() - started:.1f} s")
    assert set(seen.answers) == {202}
    check_oracle(client, seen, "P13 API SIGTERM")


def test_a_burst_without_a_broker(tmp_path: Path) -> None:
    burst, connections = 5000 if FULL else 500, 50
    # Nobody listens there.
    with running_api(tmp_path / "log", RABBITMQ_PORT="1") as api:

        def resident() -> int:
            return int(Path(f"/proc/{api.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

        async def post_all() -> set[int]:
            left = iter(range(burst))
            seen: set[int] = set()

            async def post_one_after_the_other(http: httpx.AsyncClient) -> None:
                for _ in left:
                    answer = await http.post(MULTIPLY, json={"multiplicand": 6, "multiplier": 7})
                    assert answer.headers.get("Retry-After")
                    seen.add(answer.status_code)

            async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
                await asyncio.gather(*(post_one_after_the_other(http) for _ in range(connections)))
            return seen

        assert asyncio.run(post_all()) == {503}
        before = resident()
        assert asyncio.run(post_all()) == {503}
        grown = (resident() - before) / 2**20
        served = [float(ms) for ms in re.findall(rf"POST {MULTIPLY} 503 ([0-9.]+) ms", api.log.read_text())]
    median = statistics.median(served)
    print(f"P11: {len(served)} answers, median {median:.0f} ms, slowest {max(served):.0f} ms, {grown:+.1f} MiB")
    assert len(served) == 2 * burst
    assert max(served) < 2000
    # Nothing is waited for but the processor, by 50 requests at a time.
    assert median < 100
    assert grown < 10
