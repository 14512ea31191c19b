"""Recording: Celery's own code, its messages on a tape. What a worker makes of them, integration tests show."""

import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signals
from celery.canvas import chunks
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue

from async_celery.errors import PayloadError
from async_celery.recording import CeleryRecorder
from async_celery.types import PUBLISHED_AT, BackendCall, Recording, TaskMessage

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DEADLINE = NOW + timedelta(hours=1)


def celery_app(**conf: Any) -> Celery:
    app = Celery(broker="amqp://127.0.0.1:9", backend="redis://127.0.0.1:9", set_as_current=False)
    app.conf.update({"task_default_queue": "q"} | conf)
    return app


APP = celery_app()
NUMBERS = count()
RECORDER = CeleryRecorder(APP, new_child_id=lambda: f"child-{next(NUMBERS)}")


def task(name: str, *args: Any, **options: Any) -> Any:
    return APP.signature(name, args=args, options=options)


async def record(canvas: Any, recorder: CeleryRecorder = RECORDER) -> Recording:
    return await recorder.canvas(canvas, workflow_id="whole", accepted_at=NOW, deadline=DEADLINE)


class Captor(Celery):
    """An app whose producer keeps what Celery's own `send_task` hands to it."""

    def producer_or_acquire(self, producer: Any = None) -> Any:
        self.sent: list[tuple[Any, dict[str, Any]]] = []
        connection = self.connection_for_write()
        return _Entered(
            SimpleNamespace(connection=connection, publish=lambda body, **o: self.sent.append((body, o)))
        )


class _Entered:
    def __init__(self, value: Any) -> None:
        self._value = value

    def __enter__(self) -> Any:
        return self._value

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "message",
    [
        TaskMessage("id", "add", (1, 2), {}, "q"),
        TaskMessage("id", "add", [1], {"b": "ü"}, "new", serializer="pickle", priority=3, expiration=True),
        TaskMessage("id", "add", (), {}, "typed", countdown=5, expires=60, headers={"tenant": "t"}),
    ],
    ids=lambda message: message.queue,
)
def test_a_task_is_what_celery_itself_would_send(message: TaskMessage) -> None:
    conf: dict[str, Any] = {
        "result_backend": "cache+memory://",
        "task_default_queue": "q",
        "task_compression": "gzip",
        "task_queues": [Queue("q"), Queue("typed", Exchange("work", type="topic"), routing_key="typed.#")],
    }
    priority: dict[str, Any] = {"priority": message.priority} if message.priority else {}
    captor = Captor(broker="amqp://127.0.0.1:9", set_as_current=False)
    captor.conf.update(conf)
    captor.send_task(
        message.name,
        tuple(message.args),
        dict(message.kwargs),
        task_id=message.task_id,
        queue=message.queue,
        serializer=message.serializer,
        expires=message.expires,
        countdown=message.countdown,
        headers=dict(message.headers),
        **priority,
    )
    ((body, options),) = captor.sent
    before = time.time()
    publication = CeleryRecorder(celery_app(**conf), new_child_id=str).task(message)
    assert before <= publication.options["headers"].pop(PUBLISHED_AT) <= time.time()
    assert publication.task_id == "id"
    assert publication.mandatory
    assert publication.body == body
    expected = dict(options)
    for how in ("retry", "retry_policy", "timeout", "confirm_timeout"):
        expected.pop(how)
    if not message.expiration:
        del expected["expiration"]
    # Made a moment apart, by apps of two identities.
    for sent in (expected, expected_ours := dict(publication.options)):
        sent["headers"] = {**sent["headers"], "expires": sent["headers"]["expires"][:18], "eta": None}
        sent["declare"] = [repr(entity) for entity in sent["declare"]]
        del sent["reply_to"]
    assert expected_ours == expected
    assert (publication.options["headers"]["eta"] is None) == (message.countdown is None)


def test_a_countdown_on_quorum_queues_goes_through_the_delay_exchange() -> None:
    work = Exchange("work", type="topic")
    arguments = {"x-queue-type": "quorum"}
    app = celery_app(task_queues=[Queue("q", work, routing_key="q", queue_arguments=arguments)])
    recorder = CeleryRecorder(app, new_child_id=str)
    for countdown, seconds in ((0.3, 1), (1.7, 1), (6, 6)):
        options = recorder.task(TaskMessage("id", "add", (), {}, "q", countdown=countdown)).options
        digits, _, queue = options["routing_key"].replace(".", "").partition("q")
        assert (int(digits, 2), str(options["exchange"].name)) == (seconds, "celery_delayed_27")
        assert queue == ""


async def test_an_eta_less_than_a_second_ahead_is_not_refused_on_quorum_queues() -> None:
    work = Exchange("work", type="topic")
    queue = Queue("q", work, routing_key="q", queue_arguments={"x-queue-type": "quorum"})
    recorder = CeleryRecorder(celery_app(task_queues=[queue]), new_child_id=str)
    for eta in (datetime.now(UTC) + timedelta(seconds=0.2), datetime.now(UTC).isoformat()):
        (publication,) = (await record(task("a", eta=eta, queue="q"), recorder)).publications
        assert publication.options["routing_key"].endswith("0.1.q")


@pytest.mark.parametrize("terminate", [True, False])
def test_a_revocation_is_a_broadcast_that_nobody_has_to_hear(terminate: bool) -> None:
    revocation = RECORDER.revocation(["a", "b"], terminate=terminate)
    assert (revocation.task_id, revocation.mandatory) == (None, False)
    assert revocation.body == {
        "method": "revoke",
        "arguments": {"task_id": ["a", "b"], "terminate": terminate, "signal": "SIGTERM"},
        "destination": None,
    }
    assert revocation.options["exchange"] == "celery.pidbox"
    assert [entity.name for entity in revocation.options["declare"]] == ["celery.pidbox"]


async def test_a_chords_size_comes_before_its_first_task() -> None:
    header = [task("a"), chain(task("b"), task("c")), chord([task("d"), task("e")], task("f"))]
    recording = await record(chord(header, task("g")))
    sizes = [call.args[1] for call in recording.calls if call.method == "set_chord_size"]
    assert sorted(sizes) == [2, 3]
    assert [message.body[2]["chord"] is not None for message in recording.publications] == [
        True,
        False,
        True,
        True,
    ]
    assert [message.options["headers"]["task"] for message in recording.publications] == ["a", "b", "d", "e"]


async def test_a_header_that_holds_a_group_is_stored_in_its_shape() -> None:
    recording = await record(chord([chain(task("a"), group(task("b"), task("c"))), task("d")], task("e")))
    assert [call.method for call in recording.calls] == ["_set_chord_key", "set_chord_size"]
    assert recording.calls[1].args[1] == 3


async def test_a_backend_without_chords_of_its_own_gets_an_unlocking_task() -> None:
    # Files stand for those that, like databases, leave it to Celery.
    recorder = CeleryRecorder(celery_app(result_backend="file:///tmp"), new_child_id=str)
    recording = await record(chord([task("a"), task("b")], task("c")), recorder)
    names = [publication.options["headers"]["task"] for publication in recording.publications]
    assert names == ["celery.chord_unlock", "a", "b"]
    assert recording.calls == (BackendCall(method="set_chord_size", args=recording.calls[0].args),)


async def test_a_backend_that_counts_saves_the_header() -> None:
    recorder = CeleryRecorder(celery_app(result_backend="cache+memory://"), new_child_id=str)
    recording = await record(chord([task("a"), task("b")], task("c")), recorder)
    assert [call.method for call in recording.calls] == ["save_group", "expire", "set_chord_size"]


def test_nothing_is_recorded_by_the_callers_app_and_no_setting_of_it_is_changed() -> None:
    app = celery_app(task_always_eager=True, task_send_sent_event=True)
    ran: list[int] = []

    @app.task(name="local", shared=False)
    def local() -> None:
        ran.append(1)

    before = dict(app.conf.table(with_defaults=True, censored=False))
    publication = CeleryRecorder(app, new_child_id=str).task(TaskMessage("id", "local", (), {}, "q"))
    assert publication.body[0] == ()
    assert ran == []
    assert dict(app.conf.table(with_defaults=True, censored=False)) == before


@pytest.mark.parametrize(
    "odd",
    [
        lambda: task("a", 10**5000),
        lambda: task("a", countdown="soon"),
        lambda: group(task("a", countdown="soon"), task("b")),
    ],
    ids=["a number too long for repr", "countdown", "in a group"],
)
async def test_what_cannot_become_a_message_is_a_payload_error(odd: Callable[[], Any]) -> None:
    with pytest.raises(PayloadError):
        await record(odd())
    # And leaves nothing behind.
    assert len((await record(task("a"))).publications) == 1


async def test_a_long_canvas_leaves_the_loop() -> None:
    threads: list[str] = []

    def note(**_: object) -> None:
        threads.append(threading.current_thread().name)

    signals.before_task_publish.connect(note, weak=False)
    try:
        await record(group(task("a") for _ in range(3)))
        here = threads.copy()
        await record(group(task("a") for _ in range(300)))
        await record(chunks(task("a"), iter([(1,), (2,)]), 1))
        large = threads[3:]
        # Of a chain only the first step becomes a message now: the others take little.
        await record(chain(*[task("a") for _ in range(100)]))
        await record(chain(*[task("a") for _ in range(300)]))
        await record(chain(task("a"), group(task("a") for _ in range(300)), task("b")))
        await record(chain(*[task("a") for _ in range(400)]))
        await record(chain(*[task("a", link=[task("b")]) for _ in range(200)]))
    finally:
        signals.before_task_publish.disconnect(note)
    assert set(here) == {threading.current_thread().name}
    assert large == ["async-celery-recorder_0"] * (300 + 2)
    assert threads[3 + 300 + 2 :] == [threading.current_thread().name] * 2 + ["async-celery-recorder_0"] * 3


async def test_recordings_beside_each_other_do_not_mix() -> None:
    sizes = [1, 40, 2, 60, 3, 80]
    recordings = await asyncio.gather(*(record(group([task(f"t{n}")] * n)) for n in sizes))
    for size, recording in zip(sizes, recordings, strict=True):
        names = [publication.options["headers"]["task"] for publication in recording.publications]
        assert names == [f"t{size}"] * size


async def test_a_chord_of_a_thousand_leaves_the_loop_free() -> None:
    canvas = chord([task("a", n) for n in range(1000)], task("b"))

    async def longest_lag(stop: asyncio.Event) -> float:
        loop = asyncio.get_running_loop()
        longest = 0.0
        while not stop.is_set():
            before = loop.time()
            await asyncio.sleep(0.002)
            longest = max(longest, loop.time() - before - 0.002)
        return longest

    # A machine with more to do than it has processors delays every loop; what blocks delays it every time.
    allowed = 0.02 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    lags: list[float] = []
    while len(lags) < 5 and not (lags and lags[-1] <= allowed):
        stop = asyncio.Event()
        ticker = asyncio.create_task(longest_lag(stop))
        await record(canvas)
        stop.set()
        lags.append(await ticker)
    assert min(lags) <= allowed, f"the loop was late by {lags} s"


@pytest.mark.parametrize("collects", [True, False])
async def test_the_interpreters_settings_are_as_before_when_the_last_recording_ends(collects: bool) -> None:
    other = CeleryRecorder(APP, new_child_id=str)
    before = sys.getswitchinterval()
    seen: list[tuple[bool, float]] = []

    def note(**_: object) -> None:
        seen.append((gc.isenabled(), sys.getswitchinterval()))

    signals.before_task_publish.connect(note)
    if not collects:
        gc.disable()
    try:
        sizes = [50, 300, 20]
        many = [record(group([task("a")] * n), recorder) for n in sizes for recorder in (RECORDER, other)]
        await asyncio.gather(*many)
        assert (gc.isenabled(), sys.getswitchinterval()) == (collects, before)
    finally:
        gc.enable()
        signals.before_task_publish.disconnect(note)
    assert set(seen) == {(False, 0.001)}


# --- Whatever the shape --------------------------------------------------------------------------------------

tasks = st.builds(task, st.sampled_from("abc"), st.integers(0, 9))


def _as_chain(steps: list[Any]) -> Any:
    as_they_are: Any = steps
    return chain(as_they_are, app=APP)


canvases = st.recursive(
    tasks,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(_as_chain),
        st.lists(inner, min_size=1, max_size=3).map(group),
        st.builds(chord, st.lists(inner, min_size=1, max_size=3), inner),
    ),
    max_leaves=8,
)


def _published_ids(value: Any) -> Iterator[str]:
    """Yield the ids of all tasks in a message's embedded callbacks, chain and chord."""
    if isinstance(value, dict):
        if "task" in value and value.get("subtask_type") is None and "task_id" in value["options"]:
            yield value["options"]["task_id"]
        for part in value.values():
            yield from _published_ids(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _published_ids(part)


@settings(deadline=None, max_examples=100)
@given(canvas=canvases)
def test_every_task_of_the_tree_is_in_the_messages(canvas: Any) -> None:
    then: list[str] = []

    def note(body: Any, **_: object) -> None:
        then.append(json.dumps(body))

    signals.before_task_publish.connect(note)
    recording = asyncio.run(record(canvas))
    signals.before_task_publish.disconnect(note)
    # What Celery did afterwards has not changed what it had already handed over.
    assert [json.dumps(publication.body) for publication in recording.publications] == then
    sent = {publication.task_id for publication in recording.publications}
    for publication in recording.publications:
        sent.update(_published_ids(json.loads(json.dumps(publication.body))))
    leaves = [leaf.id for leaf in recording.record.tree.leaves()]
    assert len(set(leaves)) == len(leaves)
    assert set(leaves) <= sent
    assert {publication.task_id for publication in recording.publications} <= set(leaves)
