"""What the result backend does in Redis, call by call: with a real Redis, and kombu's broker in memory.

What belongs here: the backend called as a worker calls it. What a real worker makes of it is in
`test_backend_worker.py`.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chain, chord, group, states
from celery.app.task import Context
from celery.exceptions import ImproperlyConfigured, Reject, SoftTimeLimitExceeded
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from async_celery.tombstones import LET_RUN, STOP, key_of
from async_celery.types import HISTORY, errbacks_key
from async_celery.worker import Policy, install
from async_celery.worker.backend import Beginning, ResultBackend
from async_celery.worker.connection import Connection
from async_celery.worker.encoding import ResultTooLarge

from ..redis_server import RedisServer

AppFactory = Callable[..., Celery]


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this module's own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis_server(own_redis: RedisServer) -> RedisServer:
    """That Redis, with nothing in it."""
    own_redis.client.config_set("maxmemory", 0)
    own_redis.client.flushall()
    return own_redis


@pytest.fixture
def make_app(redis_server: RedisServer) -> Iterator[AppFactory]:
    """Return a function that makes apps, with the backend and kombu's broker in memory."""
    made: list[Celery] = []

    def make(policy: Policy | None = None, **conf: Any) -> Celery:
        app = Celery("apps", broker="memory://", backend=redis_server.url(), set_as_current=False)
        app.conf.update({"result_extended": True, "task_default_queue": str(uuid4()), **conf})
        install(app, policy or Policy())
        app.task(name="body", shared=False)(_nothing)
        if app.conf.result_serializer == "json":
            backend: Any = app.backend
            # Celery's client waits for the results of what it sends, until they are collected.
            backend.on_task_call = backend.remove_pending_result = _nothing
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


def _nothing(*_: Any) -> None:
    """Do nothing."""


@pytest.fixture
def app(make_app: AppFactory) -> Celery:
    return make_app()


@pytest.fixture
def backend(app: Celery) -> Any:
    return app.backend


def request_of(task_id: str, **more: Any) -> Any:
    """Return a request as it reaches the backend."""
    fields = {
        "task": "add",
        "args": [1, 2],
        "kwargs": {},
        "hostname": "w@h",
        "delivery_info": {"routing_key": "work"},
    }
    return Context({"id": task_id, "root_id": task_id, **fields, **more})


def new() -> str:
    return str(uuid4())


def stored(backend: Any, task_id: str) -> Any:
    payload = backend.client.get(backend.get_key_for_task(task_id))
    return None if payload is None else json.loads(payload)


def history(backend: Any) -> list[dict[str, str]]:
    entries = backend.client.xrange(HISTORY)
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]


# ---- a task begins ----


def test_the_backend_is_the_one_that_install_names(app: Celery, backend: Any) -> None:
    assert isinstance(backend, ResultBackend)
    assert isinstance(app.backend, ResultBackend)


def test_first_start_writes_nothing(backend: Any) -> None:
    task = new()
    assert backend.begin(task, task, redelivered=False) == Beginning(
        revoked=False, finished=False, redeliveries=0
    )
    assert backend.client.keys() == []


def test_repeated_starts_are_counted_and_can_be_given_back(backend: Any) -> None:
    task = new()
    counts = [backend.begin(task, None, redelivered=True).redeliveries for _ in range(3)]
    assert counts == [1, 2, 3]
    backend.give_back(task)
    assert backend.begin(task, None, redelivered=True).redeliveries == 3
    assert 0 < backend.client.ttl(f"task-attempts:{task}") <= backend.expires
    # A first start that is given back was not counted: the next one, redelivered, starts from there.
    other = new()
    backend.give_back(other)
    assert backend.client.ttl(f"task-attempts:{other}") > 0
    assert backend.begin(other, None, redelivered=True).redeliveries == 0


@pytest.mark.parametrize("whose", ["own", "root"])
@pytest.mark.parametrize(("reason", "stops"), [(STOP, True), (LET_RUN, False)])
def test_a_tombstone_of_the_task_or_its_workflow_is_seen(
    backend: Any, whose: str, reason: str, stops: bool
) -> None:
    task, root = new(), new()
    backend.client.set(key_of(task if whose == "own" else root), reason)
    assert backend.begin(task, root, redelivered=False).revoked
    assert backend.is_revoked(task, root) == stops
    assert not backend.begin(new(), None, redelivered=False).revoked
    assert not backend.is_revoked(new(), None)


def test_bury_is_seen_and_expires(backend: Any) -> None:
    task = new()
    backend.bury(task)
    assert backend.is_revoked(task, None)
    assert 0 < backend.client.ttl(key_of(task)) <= backend.expires


@pytest.mark.parametrize("state", sorted(states.READY_STATES))
def test_what_has_ended_is_known_to_have_and_counts_no_more(backend: Any, state: str) -> None:
    task = new()
    result = None if state == states.SUCCESS else ValueError("no")
    backend.store_result(task, result, state)
    assert backend.begin(task, None, redelivered=False).finished
    assert backend.begin(task, None, redelivered=True).finished
    assert backend.client.exists(f"task-attempts:{task}") == 0


@pytest.mark.parametrize("state", [states.STARTED, states.RETRY, "PROGRESS", "SUCCESSFUL SO FAR"])
def test_what_goes_on_has_not_ended(backend: Any, state: str) -> None:
    task = new()
    backend.store_result(task, None, state)
    assert stored(backend, task)["status"] == state
    assert not backend.begin(task, None, redelivered=False).finished


# ---- a task ends ----


def test_end_is_one_call(redis_server: RedisServer, backend: Any) -> None:
    backend.mark_as_done(new(), 1, request_of(new()))  # Redis has the script now
    redis_server.client.config_resetstat()
    backend.mark_as_done(new(), 1, request_of(new()))
    calls = redis_server.client.info("commandstats")
    from_outside = {"evalsha": 1, "get": 0, "setex": 0, "multi": 0}
    assert {name: calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in from_outside} == from_outside
    redis_server.client.config_resetstat()
    task = new()
    assert not backend.begin(task, new(), redelivered=True).finished
    assert redis_server.calls_of("exists") == redis_server.calls_of("incr") == 1
    assert redis_server.calls_of("getrange") == 0


def test_end_is_stored_pushed_noted_and_its_attempts_forgotten(backend: Any) -> None:
    task, root = new(), new()
    request = request_of(task, root_id=root, parent_id=root, retries=1, group=new())
    request.update({"x-published-at": 1.5, "received_at": 2.5, "started_at": 3.5, "redeliveries": 2})
    request.update({"eta": "1970-01-01T00:00:02.250000+00:00"})
    assert backend.begin(task, None, redelivered=True).redeliveries == 1
    with backend.client.pubsub(ignore_subscribe_messages=True) as pushed:
        pushed.subscribe(f"celery-task-meta-{task}")
        assert pushed.get_message(timeout=1) is None
        before = time.time()
        backend.mark_as_done(task, {"sum": 3}, request)
        message = pushed.get_message(timeout=20)
    meta = stored(backend, task)
    assert json.loads(message["data"]) == meta
    finished = meta["timeline"].pop("finished")
    # By Redis' clock, to the µs; on this machine it is ours.
    assert before <= finished <= meta.pop("stored") + 1e-6 <= time.time() + 1e-5
    assert meta.pop("date_done").endswith("+00:00")
    assert meta == {
        "status": "SUCCESS",
        "result": {"sum": 3},
        "traceback": None,
        "children": [],
        "group_id": request.group,
        "parent_id": root,
        "name": "add",
        "args": [1, 2],
        "kwargs": {},
        "worker": "w@h",
        "retries": 1,
        "queue": "work",
        "attempts": 4,  # 1 + 1 retry + 2 redeliveries
        "timeline": {"published": 1.5, "due": 2.25, "received": 2.5, "started": 3.5},
        "task_id": task,
    }
    (entry,) = history(backend)
    assert entry == {
        "id": task,
        "name": "add",
        "state": "SUCCESS",
        "queue": "work",
        "worker": "w@h",
        "attempts": "4",
        "published": "1.5",
        "due": "2.25",
        "received": "2.5",
        "started": "3.5",
        "finished": repr(finished),
        "root_id": root,
    }
    assert backend.client.exists(f"task-attempts:{task}") == 0
    assert 0 < backend.client.ttl(f"celery-task-meta-{task}") <= backend.expires


def test_failure_is_stored_without_a_traceback(backend: Any) -> None:
    task = new()
    backend.mark_as_failure(task, ValueError("no", 1), "Traceback: secret", request=request_of(task))
    meta = stored(backend, task)
    expected = {"exc_type": "ValueError", "exc_message": ["no", 1], "exc_module": "builtins", "code": None}
    assert (meta["status"], meta["result"], meta["traceback"]) == ("FAILURE", expected, None)
    (entry,) = history(backend)
    assert (entry["state"], entry["error"]) == ("FAILURE", "ValueError")
    assert "root_id" not in entry
    # Any Celery client makes an exception of it again.
    exc = backend.get_task_meta(task)["result"]
    assert isinstance(exc, ValueError)
    assert exc.args == ("no", 1)


@pytest.mark.parametrize("first", sorted(states.READY_STATES))
@pytest.mark.parametrize("second", [*sorted(states.READY_STATES), states.STARTED, states.RETRY, "PROGRESS"])
def test_the_first_end_stays(backend: Any, first: str, second: str) -> None:
    task = new()
    values = {states.SUCCESS: 1, "PROGRESS": 2, states.STARTED: 3}
    backend.store_result(task, values.get(first, ValueError("first")), first)
    before = stored(backend, task)
    backend.store_result(task, values.get(second, ValueError("second")), second)
    assert stored(backend, task) == before
    assert len(history(backend)) == 1


def test_an_end_stored_by_celery_or_by_the_client_stays(backend: Any, redis_server: RedisServer) -> None:
    for status in states.READY_STATES:
        redis_server.store(task := new(), status=status)
        backend.mark_as_done(task, 2)
        assert stored(backend, task)["result"] is None


def test_started_does_not_hide_what_the_run_has_reported(backend: Any) -> None:
    request = request_of(task := new(), started_at=time.time(), worker_pid=7)
    backend.store_started(request)
    assert stored(backend, task)["result"] == {"pid": 7, "hostname": "w@h"}
    backend.store_result(task, {"done": 1}, "PROGRESS", request=request)
    backend.store_started(request)
    assert stored(backend, task)["status"] == "PROGRESS"
    # Of the next run it is news.
    request.started_at = time.time()
    backend.store_started(request)
    assert stored(backend, task)["status"] == "STARTED"
    backend.mark_as_retry(task, ValueError("later"), request=request)
    request.started_at = time.time()
    backend.store_started(request)
    assert stored(backend, task)["status"] == "STARTED"


def test_nothing_is_stored_of_what_is_not_json_or_too_large(make_app: AppFactory) -> None:
    backend: Any = make_app(Policy(max_result_bytes=100)).backend
    for value, refusal in ((float("nan"), EncodeError), (object(), EncodeError), ("x" * 100, ResultTooLarge)):
        task = new()
        with pytest.raises(refusal):
            backend.mark_as_done(task, value, request_of(task))
        assert stored(backend, task) is None
    assert history(backend) == []


@pytest.mark.parametrize("argument", [float("nan"), "x" * 1000], ids=["nan", "long"])
def test_arguments_that_cannot_be_stored_are_left_out(make_app: AppFactory, argument: Any) -> None:
    backend: Any = make_app(Policy(max_result_bytes=600)).backend
    backend.mark_as_done(task := new(), 1, request_of(task, args=[argument]))
    meta = stored(backend, task)
    assert (meta["result"], meta["args"], meta["kwargs"], meta["name"]) == (1, None, {}, "add")


@pytest.mark.parametrize("header", [float("nan"), "yesterday", [1], {}])
def test_headers_may_be_anything(backend: Any, header: Any) -> None:
    task = new()
    request = request_of(task, stamps={"s": float("nan")}, stamped_headers=["s"])
    request.update({"x-published-at": header})
    backend.mark_as_done(task, 1, request)
    meta = stored(backend, task)
    assert (meta["result"], meta["s"], meta["args"], set(meta["timeline"])) == (1, None, [1, 2], {"finished"})


def test_history_is_bounded(make_app: AppFactory) -> None:
    backend: Any = make_app(Policy(history_length=100)).backend
    for _ in range(500):
        backend.mark_as_done(new(), 1)
    assert 100 <= backend.client.xlen(HISTORY) <= 300  # whole nodes are dropped, of 100 entries


@pytest.mark.parametrize("conf", [{"result_expires": None}, {"result_expires": 0}])
def test_results_may_never_expire(make_app: AppFactory, conf: dict[str, Any]) -> None:
    backend: Any = make_app(**conf).backend
    backend.mark_as_done(task := new(), 1)
    assert backend.client.ttl(f"celery-task-meta-{task}") == -1


def test_failures_may_expire_later(make_app: AppFactory) -> None:
    backend: Any = make_app(result_expires=10, result_failure_expires=1000).backend
    backend.mark_as_failure(failed := new(), ValueError("no"))
    backend.mark_as_done(done := new(), 1)
    assert backend.client.ttl(f"celery-task-meta-{failed}") > 10 >= backend.client.ttl(f"celery-task-meta-{done}")


def test_keys_have_the_prefix_that_clients_expect(make_app: AppFactory) -> None:
    backend: Any = make_app(result_backend_transport_options={"global_keyprefix": "mine"}).backend
    backend.mark_as_done(task := new(), 1)
    assert backend.client.exists(f"mine_celery-task-meta-{task}")
    assert backend.begin(task, None, redelivered=False).finished


def test_another_serializer_is_refused(make_app: AppFactory) -> None:
    app = make_app(result_serializer="pickle")
    with pytest.raises(ImproperlyConfigured, match='result_serializer="json"'):
        _ = app.backend


def test_errbacks_are_called_once_in_the_ordinary_course(app: Celery, backend: Any) -> None:
    # Of a task that is not known here: one that is, is called at once.
    task, done = new(), new()
    request = request_of(task, errbacks=[app.signature("elsewhere")])
    backend.mark_as_failure(task, ValueError("no"), request=request)
    backend.mark_as_failure(task, ValueError("no"), request=request)
    backend.follow_up(request)
    assert len(sent(app)) == 1
    # The process died before it called them.
    backend.client.delete(errbacks_key(task))
    backend.follow_up(request)
    assert len(sent(app)) == 1
    request = request_of(done, errbacks=[app.signature("elsewhere")])
    backend.mark_as_done(done, 1, request)
    backend.mark_as_failure(done, ValueError("too late"), request=request)
    assert sent(app) == []


# ---- when Redis is not as it should be ----


def test_a_redis_that_has_forgotten_the_scripts_is_told_them(backend: Any) -> None:
    backend.mark_as_done(new(), 1)
    backend.client.script_flush()
    backend.mark_as_done(task := new(), 1)
    assert stored(backend, task)["result"] == 1


def test_a_connection_that_was_closed_is_made_anew(backend: Any) -> None:
    backend.begin(new(), None, redelivered=False)
    backend.client.client_kill_filter(_type="normal", skipme=False)
    assert backend.begin(new(), None, redelivered=True).redeliveries == 1


def test_a_call_that_is_cut_short_leaves_no_answer_for_the_next(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.bury(task := new())

    class TimeIsUp(BaseException):
        pass

    def interrupted(*_: object, **__: object) -> None:
        raise TimeIsUp

    connection = backend._connection._connection()
    with monkeypatch.context() as patch:
        patch.setattr(connection, "read_response", interrupted)
        with pytest.raises(TimeIsUp):
            backend.begin(task, None, redelivered=False)
    assert not backend.begin(new(), None, redelivered=False).revoked
    assert backend.begin(task, None, redelivered=False).revoked


@pytest.fixture
def lost_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that has the next calls carried out, and the connection cut before the answer comes."""
    lost: list[int] = []
    exchange = Connection._exchange

    def cut(self: Connection, connection: Any, packed: bytes, count: int) -> list[Any]:
        answers = exchange(self, connection, packed, count)
        if lost:
            lost.pop()
            connection.disconnect()
            raise RedisConnectionError("cut")
        return answers

    monkeypatch.setattr(Connection, "_exchange", cut)
    return lambda: lost.append(1)


def test_an_end_whose_answer_is_lost_counts_once(backend: Any, lost_answers: Callable[[], None]) -> None:
    lost_answers()
    backend.mark_as_done(task := new(), 1)
    assert stored(backend, task)["result"] == 1
    assert len(history(backend)) == 1


def test_a_full_redis_is_waited_for(make_app: AppFactory, redis_server: RedisServer) -> None:
    backend: Any = make_app().backend
    backend._sleep = lambda _: redis_server.client.config_set("maxmemory", 0)
    redis_server.client.config_set("maxmemory", 1)
    backend.mark_as_done(task := new(), 1)
    assert stored(backend, task)["result"] == 1
    # In a worker's main process the task's message is what holds it.
    impatient: Any = make_app().backend
    impatient.hurry()
    redis_server.client.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        impatient.mark_as_done(other := new(), 1)
    redis_server.client.config_set("maxmemory", 0)
    assert stored(backend, other) is None
    assert len(history(backend)) == 1


# ---- chords ----


def sent(app: Celery) -> list[dict[str, Any]]:
    """Take what was sent to the app's queue: for each message its task, id and arguments."""
    messages = []
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[app.conf.task_default_queue].bind(connection.default_channel)
        queue.declare()
        while (message := queue.get(no_ack=True)) is not None:
            messages.append({**message.headers, "args": message.payload[0], "embed": message.payload[2]})
    return messages


def members(app: Celery, canvas: Any, count: int) -> list[Any]:
    """Send a canvas; return the requests of its first `count` tasks."""
    canvas.apply_async()
    messages = sent(app)
    assert len(messages) == count
    return [request_of(m["id"], **{**m, **m["embed"], "task": m["task"]}) for m in messages]


def chord_of(app: Celery, count: int) -> tuple[list[Any], str]:
    """Send a chord; return the requests of its members, and the id of its body."""
    body = app.signature("body")
    canvas = chord([app.signature("add", args=(n, n)) for n in range(count)], body, app=app)
    requests = members(app, canvas, count)
    return requests, requests[0].chord["options"]["task_id"]


@pytest.mark.parametrize("ordered", [True, False])
def test_the_last_member_sends_the_body_with_all_results(make_app: AppFactory, ordered: bool) -> None:
    app = make_app(result_backend_transport_options={"result_chord_ordered": ordered})
    backend: Any = app.backend
    requests, body = chord_of(app, 12)
    for n in (3, 11, 0, 5, 9, 1, 2, 10, 4, 6, 8):
        backend.mark_as_done(requests[n].id, n, requests[n])
        # A message that comes again counts once, whatever comes of it.
        backend.mark_as_done(requests[n].id, n + 100, requests[n])
        backend.follow_up(requests[n])
        assert sent(app) == []
    backend.mark_as_done(requests[7].id, 7, requests[7])
    (message,) = sent(app)
    assert message["id"] == body
    in_order = list(range(12)) if ordered else [3, 11, 0, 5, 9, 1, 2, 10, 4, 6, 8, 7]
    assert message["args"] == [in_order]
    for request in requests:
        backend.follow_up(request)
    assert sent(app) == []
    # Late copies leave nothing behind but the note that it is done.
    assert [key[-2:] for key in backend.client.keys(f"*{requests[0].group}*")] == [b".c"]


def test_a_members_part_is_in_the_call_that_stores_it(
    redis_server: RedisServer, app: Celery, backend: Any
) -> None:
    requests, _ = chord_of(app, 3)
    backend.mark_as_done(requests[0].id, 0, requests[0])
    redis_server.client.config_resetstat()
    backend.mark_as_done(requests[1].id, 1, requests[1])
    assert redis_server.calls_of("evalsha") == 1
    assert redis_server.calls_of("sismember") == 1


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_lost_answers_change_no_aggregate(
    app: Celery, backend: Any, lost_answers: Callable[[], None], lost: int
) -> None:
    backend._sleep = lambda _: None
    requests, body = chord_of(app, 3)
    for n, request in enumerate(requests):
        for _ in range(lost):
            lost_answers()
        backend.mark_as_done(request.id, n, request)
    assert [(m["id"], m["args"]) for m in sent(app)] == [(body, [[0, 1, 2]])]
    assert len(history(backend)) == 3


def test_who_completed_the_chord_sends_its_body_again(
    app: Celery, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, body = chord_of(app, 2)

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(backend, "_send_body", die)
        backend.mark_as_done(requests[0].id, 0, requests[0])
        with pytest.raises(SystemExit):
            backend.mark_as_done(requests[1].id, 1, requests[1])
    backend.follow_up(requests[0])  # the other member: it is not its turn
    assert sent(app) == []
    backend.follow_up(requests[1])
    assert [(m["id"], m["args"]) for m in sent(app)] == [(body, [[0, 1]])]
    backend.follow_up(requests[1])
    assert sent(app) == []


def test_a_body_that_the_broker_does_not_take_is_sent_later(
    app: Celery, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, body = chord_of(app, 1)

    def down(*_: object, **__: object) -> None:
        raise OperationalError("broker away")

    with monkeypatch.context() as patch:
        patch.setattr(app.amqp, "_retry_publish", down)
        with pytest.raises(Reject) as caught:
            backend.mark_as_done(requests[0].id, 0, requests[0])
    rejected: Any = caught.value
    assert rejected.requeue
    assert stored(backend, requests[0].id)["status"] == "SUCCESS"
    assert stored(backend, body) is None
    backend.follow_up(requests[0])
    assert [m["id"] for m in sent(app)] == [body]


def test_a_body_that_cannot_be_sent_at_all_fails(
    app: Celery, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, body = chord_of(app, 1)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("too much of it")

    monkeypatch.setattr(app.amqp, "_retry_publish", refuse)
    backend.mark_as_done(requests[0].id, 0, requests[0])
    assert "too much of it" in stored(backend, body)["result"]["exc_message"][0]


@pytest.mark.parametrize("ending", [states.FAILURE, states.REVOKED])
def test_a_member_that_fails_or_is_revoked_fails_the_body(app: Celery, backend: Any, ending: str) -> None:
    requests, body = chord_of(app, 3)
    backend.mark_as_done(requests[0].id, 0, requests[0])
    if ending == states.FAILURE:
        backend.mark_as_failure(requests[1].id, ValueError("no luck"), request=requests[1])
    else:
        backend.mark_as_revoked(requests[1].id, "no luck", request=requests[1])
    backend.mark_as_done(requests[2].id, 2, requests[2])
    error = stored(backend, body)["result"]
    assert error["exc_type"] == "ChordError"
    assert requests[1].id in error["exc_message"][0]
    assert "no luck" in error["exc_message"][0]
    assert sent(app) == []


def test_a_member_revoked_by_the_client_counts_as_revoked(
    app: Celery, backend: Any, redis_server: RedisServer
) -> None:
    requests, body = chord_of(app, 2)
    revoked = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
    redis_server.store(requests[0].id, revoked, status="REVOKED")
    backend.mark_as_done(requests[0].id, 0, requests[0])
    backend.mark_as_done(requests[1].id, 1, requests[1])
    assert "TaskRevokedError" in stored(backend, body)["result"]["exc_message"][0]


def test_what_comes_after_a_revoked_task_is_revoked(app: Celery, backend: Any) -> None:
    steps = [app.signature("add"), app.signature("add"), app.signature("body")]
    canvas = chord([chain(*steps[:2]), app.signature("add")], steps[2], app=app)
    first, other = members(app, canvas, 2)
    last = first.chain[0]["options"]["task_id"]
    backend.mark_as_revoked(first.id, "cancelled", request=first)
    assert stored(backend, last)["status"] == "REVOKED"
    backend.mark_as_done(other.id, 1, other)
    assert stored(backend, other.chord["options"]["task_id"])["status"] == "FAILURE"


def test_celery_reports_its_own_errors_with_the_exception_itself(backend: Any) -> None:
    """Also what interrupts storing, such as a time limit: `celery.app.trace.report_internal_error`."""
    error = SoftTimeLimitExceeded(1)
    assert backend.prepare_exception(error, "pickle") is error
    assert backend.prepare_exception(error)["exc_type"] == "SoftTimeLimitExceeded"


def test_a_failed_inner_chord_fails_the_outer_one(app: Celery, backend: Any) -> None:
    add = app.signature("add", args=(1, 1))
    inner = chord([add.clone(), add.clone()], app.signature("body"), app=app)
    requests = members(app, chord([inner, add.clone()], app.signature("body"), app=app), 3)
    inside = [r for r in requests if "chord" in r.chord["options"]]
    (beside,) = (r for r in requests if "chord" not in r.chord["options"])
    backend.mark_as_done(beside.id, 1, beside)
    backend.mark_as_failure(inside[0].id, ValueError("no luck"), request=inside[0])
    backend.mark_as_done(inside[1].id, 1, inside[1])
    assert stored(backend, inside[0].chord["options"]["task_id"])["status"] == "FAILURE"
    assert stored(backend, beside.chord["options"]["task_id"])["status"] == "FAILURE"


def test_a_nested_header_gives_nested_results(app: Celery, backend: Any) -> None:
    add = app.signature("add", args=(1, 1))
    inner = group([add.clone(), add.clone()], app=app)
    requests = members(app, chord([inner, add.clone()], app.signature("body"), app=app), 3)
    for n, request in enumerate(requests):
        backend.mark_as_done(request.id, n, request)
    results = sorted(map(str, sent(app)[0]["args"][0]))
    assert results == ["2", "[0, 1]"] or results == ["0", "1", "2"]


def test_a_size_that_comes_late_is_waited_for(app: Celery, backend: Any) -> None:
    requests, body = chord_of(app, 2)
    size = backend.client.getdel(backend.get_key_for_group(requests[0].group, ".s"))
    for n, request in enumerate(requests):
        backend.mark_as_done(request.id, n, request)
    assert sent(app) == []
    backend.client.set(backend.get_key_for_group(requests[0].group, ".s"), size)
    backend.follow_up(requests[0])
    assert [m["id"] for m in sent(app)] == [body]


def test_a_member_added_while_it_runs_is_waited_for(app: Celery, backend: Any) -> None:
    requests, _ = chord_of(app, 1)
    (first,) = requests
    backend.add_to_chord(first.group, None)
    added = request_of(new(), group=first.group, group_index=1, chord=first.chord)
    backend.mark_as_done(first.id, 0, first)
    assert sent(app) == []
    backend.mark_as_done(added.id, 1, added)
    assert sent(app)[0]["args"] == [[0, 1]]


def test_a_task_that_is_a_member_twice_counts_twice(app: Celery, backend: Any) -> None:
    requests, _ = chord_of(app, 2)
    twice = request_of(requests[0].id, group=requests[0].group, group_index=1, chord=requests[0].chord)
    backend.mark_as_done(requests[0].id, 5, requests[0])
    backend.mark_as_done(twice.id, 5, twice)
    assert sent(app)[0]["args"] == [[5, 5]]


def test_a_chord_that_outlives_its_results_fails_and_says_so(make_app: AppFactory) -> None:
    app = make_app(result_expires=1)
    backend: Any = app.backend
    requests, body = chord_of(app, 2)
    backend.mark_as_done(requests[0].id, 0, requests[0])
    keys = [backend.get_key_for_group(requests[0].group, name) for name in (".j", ".t", ".s", ".d")]
    deadline = time.monotonic() + 5
    while backend.client.exists(*keys):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    requests[1].update({"x-published-at": time.time() - 2})
    backend.mark_as_done(requests[1].id, 1, requests[1])
    error = stored(backend, body)["result"]
    assert "expired" in error["exc_message"][0]
    assert sent(app) == []


@pytest.mark.parametrize("conf", [{"result_expires": None}, {"result_chord_expires": 50}])
def test_what_is_kept_of_a_chord_expires_as_configured(make_app: AppFactory, conf: dict[str, Any]) -> None:
    app = make_app(**conf)
    backend: Any = app.backend
    requests, _ = chord_of(app, 2)
    backend.mark_as_done(requests[0].id, 0, requests[0])
    expected = range(1, 51) if "result_chord_expires" in conf else range(-1, 0)
    for name in (".j", ".s", ".d"):
        assert backend.client.ttl(backend.get_key_for_group(requests[0].group, name)) in expected
    backend.mark_as_done(requests[1].id, 1, requests[1])
    left = {key.decode()[-2:] for key in backend.client.keys(f"*{requests[0].group}*")}
    assert left == {".c"}  # that it is done, for a day or as long as the chord would have lived
    assert backend.client.ttl(backend.get_key_for_group(requests[0].group, ".c")) > 0


def test_members_whose_results_are_ignored_are_counted(app: Celery, backend: Any) -> None:
    requests, body = chord_of(app, 2)
    for n, request in enumerate(requests):
        request.ignore_result = True
        backend.mark_as_done(request.id, n, request)
        assert stored(backend, request.id) is None
    assert [(m["id"], m["args"]) for m in sent(app)] == [(body, [[0, 1]])]
