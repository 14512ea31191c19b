"""The self-test at the end of `up`: one real task through the whole system, and everybody watched.

How it works: POST 6 x 7 to the API, which publishes it to RabbitMQ; the worker computes it and stores the result
in Redis; the API answers with it. 42 proves every hop. Then Prometheus must reach every service that has metrics
and was started.

What belongs here: that request, and that question.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterable

from stack import health
from stack.errors import StackError
from stack.health import UnhealthyError
from stack.instance import Instance
from stack.servers.prometheus import JOBS
from stack.service import Service

_PATIENCE = 15.0  # s; longer than the 10 s after which the API itself gives up
_UNTIL_SCRAPED = 30.0  # s: six scrapes
_POLL = 0.2  # s

_FOUND_LATER = ("project-worker",)
"""Jobs whose targets Prometheus asks Docker's name service for: however many containers there are."""


def run(instance: Instance) -> float:
    """Send the task and check its result.

    Returns:
        How long it took, in seconds.

    Raises:
        StackError: The answer is another, or there is none.
    """
    url = f"http://127.0.0.1:{instance['API_PORT']}/v1/project-worker/integer-multiplication"
    request = urllib.request.Request(
        url,
        data=json.dumps({"multiplicand": 6, "multiplier": 7}).encode(),
        headers={"Content-Type": "application/json"},
    )
    begin = time.monotonic()
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_PATIENCE) as response:
            answer = response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            raise _failed(f"HTTP {error.code}: {error.read(1000).decode(errors='replace')}") from error
    except OSError as error:
        raise _failed(str(error)) from error
    took = time.monotonic() - begin
    try:
        result = json.loads(answer)["result"]
    except (ValueError, KeyError, TypeError) as error:
        raise _failed(answer[:1000]) from error
    if result != 42:
        raise _failed(answer[:1000])
    return took


def watch(instance: Instance, started: Iterable[Service]) -> tuple[int, float]:
    """Wait until Prometheus reaches everything that was started and has metrics.

    Returns:
        How many targets that are, and how long it took, in seconds.

    Raises:
        StackError: It does not reach some.
    """
    scraped = {variable for variables in JOBS.values() for variable in variables}
    ports = {port.variable for service in started for port in service.ports} & scraped
    numbers = frozenset(instance.port(variable) for variable in ports)
    return _until_scraped(instance, lambda: health.scraped(instance, numbers))


def watch_by_name(instance: Instance, running: Collection[str], absent: Collection[str]) -> tuple[int, float]:
    """Do the same where Prometheus knows its targets by their services' names: in Docker's network.

    Args:
        instance: Where Prometheus listens.
        running: The services that run.
        absent: Those that were not started: Prometheus need not reach them.

    Returns:
        How many targets that are, and how long it took, in seconds.

    Raises:
        StackError: It does not reach some.
    """
    jobs = [job for job in _FOUND_LATER if job in running]
    return _until_scraped(instance, lambda: health.scraped_by_name(instance, jobs, absent))


def _until_scraped(instance: Instance, ask: Callable[[], int]) -> tuple[int, float]:
    begin = time.monotonic()
    while True:
        try:
            return ask(), time.monotonic() - begin
        except UnhealthyError as error:
            if time.monotonic() - begin > _UNTIL_SCRAPED:
                raise StackError(
                    f"Prometheus does not reach everything after {_UNTIL_SCRAPED:.0f} s: {error}",
                    hint=f"look at http://127.0.0.1:{instance['PROMETHEUS_PORT']}, Status, Targets",
                ) from error
        time.sleep(_POLL)


def _failed(answer: str) -> StackError:
    return StackError(
        f"the self-test failed: 6 x 7 sent to the API, the answer was: {answer}",
        hint="look at ./stack logs project-api and ./stack logs project-worker",
    )
