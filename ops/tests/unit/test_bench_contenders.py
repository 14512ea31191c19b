"""Contenders' programs: their answers, their failures, their end; and what all of them are measured with."""

import asyncio
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from stack import environments
from stack.bench import contenders
from stack.bench.contenders import Contender, ContenderError, Running
from stack.errors import StackError
from stack.instance import Instance

ROOT = Path(__file__).parents[3]
FAKE = Contender(name="fake", folder="fake", way="mine")


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """An instance in which the contender `fake` runs on this Python."""
    (tmp_path / "benchmarks/contenders/fake").mkdir(parents=True)
    state = tmp_path / "state"
    for folder in ("logs", "venvs/bench-fake/bin"):
        (state / folder).mkdir(parents=True)
    program = state / "venvs/bench-fake/bin/python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return Instance(repository=tmp_path, state=state, values={})


def running(instance: Instance, code: str, **command: Any) -> Running:
    (instance.repository / "benchmarks/contenders/fake/contender.py").write_text(code)
    return Running(FAKE, command, instance)


def test_it_gets_its_command_and_is_talked_with_in_lines(instance: Instance) -> None:
    code = "import sys; print(sys.argv[1], flush=True); print(sys.stdin.readline(), end='', flush=True)"
    with running(instance, code, row="enqueue", count=3) as program:
        assert program.answer(10) == {"row": "enqueue", "count": 3, "way": "mine"}
        program.tell({"ids": [1]})
        assert program.answer(10) == {"ids": [1]}


def test_one_that_fails_is_named_with_the_end_of_its_log(instance: Instance) -> None:
    code = "raise SystemExit('no such broker')"
    with running(instance, code) as program, pytest.raises(ContenderError, match=r"fake ended.*no such broker"):
        program.answer(10)


def test_one_that_hangs_is_given_up(instance: Instance) -> None:
    begin = time.monotonic()
    with running(instance, "import time; time.sleep(600)") as program:
        with pytest.raises(ContenderError, match="said nothing for 0 s"):
            program.answer(0.2)
        pid = program.pid
    assert time.monotonic() - begin < 10
    assert not psutil.pid_exists(pid)


def test_what_it_leaves_behind_ends_with_it(instance: Instance) -> None:
    code = "import json, subprocess; print(json.dumps({'pid': subprocess.Popen(['sleep', '600']).pid}))"
    with running(instance, code) as program:
        child = psutil.Process(program.answer(10)["pid"])
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_it_inherits_nothing_that_would_move_it(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with running(instance, "import json, os; print(json.dumps(dict(os.environ)))") as program:
        environ = program.answer(10)
    assert not {"CELERY_BROKER_URL", "PYTHONPATH", contenders.LIBRARY} & set(environ)
    assert environ["PATH"] == os.environ["PATH"]


def test_another_state_of_our_library_is_a_path_of_our_contender_alone(
    instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other/async_celery").mkdir(parents=True)
    monkeypatch.setenv(contenders.LIBRARY, str(tmp_path / "other"))
    code = "import json, os; print(json.dumps({'path': os.environ.get('PYTHONPATH')}))"
    with running(instance, code) as program:
        assert program.answer(10) == {"path": None}
    monkeypatch.setattr(contenders, "OURS", FAKE)
    with running(instance, code) as program:
        assert program.answer(10) == {"path": str(tmp_path / "other")}
    monkeypatch.setenv(contenders.LIBRARY, str(tmp_path))
    with pytest.raises(StackError, match="where there is no async_celery"):
        running(instance, code)


def test_a_project_takes_part_in_its_own_environment_and_with_a_log_of_its_own(instance: Instance) -> None:
    """A benchmark deletes its contenders' logs: those of the stack that is up must not be among them."""
    assert contenders.API.environment == environments.of_service("project-api")
    assert contenders.contender_log(contenders.API, instance) == instance.log("bench-project-api")
    assert contenders.contender_log(FAKE, instance) == instance.log("bench-fake")


def test_what_a_process_prints_is_logged_when_nobody_talks_with_it(instance: Instance, tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import os; print('it is', os.environ['WHAT'], os.getcwd())"]
    environ = {"WHAT": "ready"}
    with contenders.Process(FAKE, words, instance, directory=tmp_path, environ=environ) as process:
        deadline = time.monotonic() + 10
        while not process.has_ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert str(process.error("said")) == f"fake said: it is ready {tmp_path}"


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module on every contender's path; it is no package of this project's."""
    yield module("bench_protocol", ROOT / "benchmarks/protocol/bench_protocol.py", monkeypatch)


@pytest.fixture
def load(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The load generator of the HTTP rows."""
    return module("load", ROOT / "benchmarks/contenders/limits/load.py", monkeypatch)


def module(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file, and let others find it while the test runs."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, made)
    spec.loader.exec_module(made)
    return made


def test_sends_are_counted_until_the_last_has_ended(protocol: Any) -> None:
    sent = 0

    async def send() -> None:
        nonlocal sent
        await asyncio.sleep(0.01)
        sent += 1

    asked = protocol.Command(row="enqueue", levels=(1, 5), seconds=0.1)
    answer = asyncio.run(protocol.enqueue(asked, send))
    assert answer["total"] == sent
    one, five = answer["levels"]
    assert (one["senders"], five["senders"]) == (1, 5)
    assert five["sent"] > 2 * one["sent"]
    assert all(level["seconds"] >= 0.1 and level["sent"] and level["cpu"] >= 0 for level in (one, five))


def test_a_blocked_loop_shows_as_lag(protocol: Any) -> None:
    async def block() -> float:
        async with protocol.LoopLag() as lag:
            time.sleep(0.2)  # noqa: ASYNC251 (blocking is what is tested)
        return float(lag.longest)

    assert asyncio.run(block()) > 0.15


def test_a_wrong_result_ends_a_round_trip(protocol: Any) -> None:
    async def right(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    async def wrong(number: int) -> int:
        return number + (number > 10)

    asked = protocol.Command(row="round-trip", levels=(1, 3), seconds=0.05)
    for level in asyncio.run(protocol.round_trips(asked, right))["levels"]:
        assert level["done"] == len(level["latencies"]) > 0
        assert min(level["latencies"]) >= 0.001
    with pytest.raises(AssertionError, match="the result of task 11 is 12"):
        asyncio.run(protocol.round_trips(asked, wrong))


def test_waiters_report_how_late_they_were_woken(protocol: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async def wait(_: str) -> float:
        published = time.monotonic()
        await asyncio.sleep(0.1)
        return published

    asked = protocol.Command(row="wait", timeout=10)
    asyncio.run(protocol.wait_for_all(asked, ["a", "b"], wait))
    ready, done = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert ready == {"ready": True, "ids": ["a", "b"]}
    assert len(done["delays"]) == 2
    assert min(done["delays"]) >= 0.09


def test_results_are_published_at_their_pace(protocol: Any) -> None:
    begin = time.monotonic()
    assert list(protocol.paced(["a", "b", "c"], 20.0)) == ["a", "b", "c"]
    assert time.monotonic() - begin >= 0.1


def test_a_command_is_found_again_after_a_framework_took_over(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["celery", "-A", "contender"])
    monkeypatch.setenv("BENCH_COMMAND", json.dumps({"row": "worker", "queue": "q", "unknown": 1}))
    assert (protocol.command().row, protocol.command().queue) == ("worker", "q")


def test_each_request_carries_the_next_number_and_the_length_stays(protocol: Any, load: Any) -> None:
    asked = protocol.Command(row="load", port=80, body='{"id": NUMBER}', first=998)
    requests = list(itertools.islice(load._requests(asked, "/v1/cities"), 2))
    assert [request.partition(b"\r\n\r\n")[2] for request in requests] == [b'{"id": 998}', b'{"id": 999}']
    assert all(b"POST /v1/cities HTTP/1.1\r\n" in one and b"Content-Length: 11\r\n" in one for one in requests)
    same = load._requests(protocol.Command(row="load", port=80), "/v1/cities/1")
    assert next(same) == next(same) == b"GET /v1/cities/1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"


@pytest.mark.parametrize(
    ("answers", "is_same", "refused"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"] * 3, True, 0),
        ([b"HTTP/1.1 503 Busy\r\ncontent-length: 1\r\n\r\na"], True, 1),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%c" % one for one in b"aba"], True, 1),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%c" % one for one in b"aba"], False, 0),
        ([b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 2\r\n\r\na", b"b"], True, 0),
    ],
)
def test_an_answer_counts_when_it_is_what_is_expected(
    load: Any, answers: list[bytes], is_same: bool, refused: int
) -> None:
    client = load._Client(itertools.repeat(b""), 200, is_same=is_same)
    client.transport = SimpleNamespace(write=lambda _: None)
    for answer in answers:
        client.data_received(answer)
    whole = sum(b"HTTP/1.1" in answer for answer in answers)
    assert (client.refused, len(client.latencies)) == (refused, whole - refused)
