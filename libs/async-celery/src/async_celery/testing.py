"""FakeCelery: takes the place of `AsyncCelery` in your tests, without a broker, a backend or a worker.

How it works: it is an `AsyncCelery` whose two ends are in memory, so ids, handles, states, timeouts, `cancel`,
`watch`, workflows and errors are the real ones. A task stays QUEUED until something ends it: a function that is
registered for its name (as a worker would run it, at once), or the test itself (`succeed`, `fail`):

    fake = FakeCelery()
    fake.register("add", lambda x, y: x + y)
    sum_ = await fake.send_task("add", (1, 2), queue="sums", result_type=int)
    assert await sum_.result(timeout=1) == 3
    fake.assert_sent("add", (1, 2), queue="sums")

    report = await fake.send_task("report", queue="slow")
    assert (await report.status()).state == "QUEUED"
    fake.fail("report", ValueError("no data"))
    with pytest.raises(TaskFailed, match="no data"):
        await report.result(timeout=1)

    with fake.broker_down(), pytest.raises(PublishError):
        await fake.send_task("add", (3, 4), queue="sums")

Arguments and results pass through their serializer, so that what could not travel is found here too. All of it
but the client's own coroutines is synchronous and may be called from another thread than the loop's, such as
that of Starlette's `TestClient`.

What differs from real servers: nothing expires in a queue, countdowns are not waited for, a canvas's `link` and
`link_error` do not run, and what follows a failed task in a workflow keeps no state of its own.

What belongs here: the fake and its assertions. It is for tests, and imports no test framework.
"""

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.utils.serialization import ensure_serializable
from kombu.exceptions import KombuError
from kombu.serialization import dumps, loads

from async_celery.client import AsyncCelery
from async_celery.errors import BackendError, PayloadError, PublishError
from async_celery.history import id_parts
from async_celery.metas import ending_of
from async_celery.observation import NOBODY, Observer, guarded
from async_celery.recording import CeleryRecorder
from async_celery.signed_pickle import SERIALIZER as SIGNED_PICKLE
from async_celery.signed_pickle import TaskBody
from async_celery.spans import Tracer
from async_celery.task_ids import TaskIds
from async_celery.types import (
    BackendCall,
    Expectation,
    HistoryRow,
    Meta,
    NodeKind,
    Publication,
    TaskMessage,
    TaskNode,
    TaskRecord,
    TaskState,
)

_NOTHING: Any = object()
_CONTAINERS = (NodeKind.CHAIN, NodeKind.GROUP, NodeKind.CHORD)
_KEY = b"FakeCelery's ids are for tests"


@dataclass(frozen=True, kw_only=True)
class SentTask:
    """A task as it was sent; of a workflow, as it stands there: without what the tasks before it hand on.

    `args` and `kwargs` are what a worker would get of them: tuples have become lists. `expires` and `countdown`
    are in s from when it was sent, None inside a workflow.
    """

    id: str
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str | None
    expires: float | None = None  # s
    countdown: float | None = None  # s
    priority: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{_call(self.name, self.args, self.kwargs)} to {self.queue or 'the default queue'}"


class FakeCelery(AsyncCelery):
    """An `AsyncCelery` for tests; see this module's docstring for an example.

    Attributes:
        sent: every task that was sent, in order; of a workflow each task, as it is written, when it is submitted.
    """

    def __init__(
        self,
        celery_app: Celery | None = None,
        *,
        task_id_key: bytes = _KEY,
        task_deadline: float = 3600.0,
        observer: Observer = NOBODY,
        tracer: Tracer | None = None,
    ) -> None:
        """Connect to nothing.

        Args:
            celery_app: for its routes and queues, which tasks in a canvas without a `queue` go to. None for
                Celery's defaults.
            task_id_key: as for `AsyncCelery`.
            task_deadline: in s, as for `AsyncCelery`.
            observer: hears of revokes and waits; there is no broker here to publish to.
            tracer: as for `AsyncCelery`.
        """
        ids = TaskIds(task_id_key)
        app = celery_app or Celery(broker="memory://", backend="cache+memory://", set_as_current=False)
        self._backend = _MemoryBackend()
        self._worker = self._backend.worker = _Worker(self._backend)
        self._broker = _MemoryBroker(self._worker)
        self.sent: list[SentTask] = self._worker.sent
        self._assemble(
            ids=ids,
            recorder=CeleryRecorder(app, new_child_id=ids.child),
            broker=self._broker,
            backend=self._backend,
            task_deadline=task_deadline,
            observer=guarded(observer),
            tracer=tracer,
        )

    def register(self, name: str, function: Callable[..., Any]) -> None:
        """Run every task of this name with `function`, from now on, as soon as it is sent and its turn has come.

        It gets the task's arguments. What it returns is the result; what it raises makes the task FAILURE.

        Args:
            name: the task's.
            function: a plain one. A Celery task will do: calling it runs it.
        """
        self._worker.functions[name] = function

    def start(self, task: str) -> None:
        """Make a task STARTED, as a worker does that takes it. It is not run, even where its name is registered.

        Args:
            task: its id, or its name: then the oldest of this name that has not ended.

        Raises:
            LookupError: there is none; lists what was sent.
            ValueError: it has ended.
        """
        self._worker.reach(self._worker.find(task), TaskState.STARTED, None)

    def progress(self, task: str, progress: Any) -> None:
        """Make a task report progress: what it hands to Celery's `update_state(state="PROGRESS", meta=…)`.

        Args, Raises: as for `start`.
        """
        self._worker.reach(self._worker.find(task), TaskState.PROGRESS, _received(progress))

    def succeed(self, task: str, result: Any = None) -> None:
        """End a task or a workflow with a result. What it was waited for by goes on.

        Args:
            task: its id, or its name: then the oldest of this name that has not ended. With a workflow's id, its
                remaining tasks end with it: those of a group each with its item of `result`, those before the
                last one of a chain or chord with None.
            result: what the worker would return.

        Raises:
            LookupError: there is none; lists what was sent.
            ValueError: it has ended; or a group's `result` is not one item for each member.
            PayloadError: `result` is not JSON.
        """
        self._worker.succeed(self._worker.find(task), _received(result))

    def fail(self, task: str, error: Exception) -> None:
        """End a task or a workflow with an exception.

        Args:
            task: its id, or its name: then the oldest of this name that has not ended. With a workflow's id, the
                first task in it that has not ended.
            error: what it raised; readers see its class name and text.

        Raises:
            LookupError, ValueError: as for `succeed`.
        """
        self._worker.reach(self._worker.find(task), TaskState.FAILURE, _exception(error))

    def assert_sent(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        times: int = 1,
    ) -> list[SentTask]:
        """Assert that a task was sent exactly so often; return what matched.

        Args:
            name: the task's.
            args: all its positional arguments, None for any.
            kwargs: all its keyword arguments, None for any.
            queue: where to, None for anywhere.
            times: how often; 0 for never.

        Raises:
            AssertionError: it was not; lists what was sent instead.
        """
        found = [
            task
            for task in self.sent
            if task.name == name
            and (args is None or list(task.args) == _as_lists(args))
            and (kwargs is None or task.kwargs == _as_lists(kwargs))
            and (queue is None or task.queue == queue)
        ]
        if len(found) != times:
            wanted = _call(name, args, kwargs) + (f" to {queue}" if queue else "")
            raise AssertionError(f"{wanted} was sent {len(found)} times, not {times}; {self._worker.told()}")
        return found

    @contextlib.contextmanager
    def broker_down(self, error: type[PublishError] = PublishError) -> Iterator[None]:
        """Let every send and ping fail inside this block; nothing is sent. Cancelling needs only the backend.

        Args:
            error: what they raise: one of `PublishError`'s subclasses for another kind of trouble.
        """
        self._broker.error = error
        try:
            yield
        finally:
            self._broker.error = None

    @contextlib.contextmanager
    def backend_down(self) -> Iterator[None]:
        """Let every read of a result raise `BackendError` inside this block; who waits for one goes on waiting.

        What the worker stores meanwhile is there afterwards.
        """
        self._backend.is_down = True
        try:
            yield
        finally:
            self._backend.is_down = False
            self._backend.wake()


@dataclass(kw_only=True)
class _Task:
    """A task as the worker knows it; an immutable one takes nothing from the tasks before it."""

    sent: SentTask
    is_immutable: bool = False
    state: TaskState = TaskState.QUEUED
    result: Any = None


class _Worker:
    """Runs what can run. A workflow is walked again from its root whenever one of its tasks ends."""

    def __init__(self, backend: "_MemoryBackend") -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.sent: list[SentTask] = []
        self._backend = backend
        self._tasks: dict[str, _Task] = {}
        self._roots: dict[str, TaskNode] = {}
        """What each task belongs to: by its own id, and by the workflow's."""

    def take(self, root: TaskNode, tasks: Mapping[str, _Task]) -> None:
        """Take a task or a workflow, `tasks` by their ids; what is sent again under its id keeps its state."""
        self._roots[root.id] = root
        for leaf in root.leaves():
            self._roots[leaf.id] = root
            self._tasks.setdefault(leaf.id, tasks[leaf.id])
            self.sent.append(tasks[leaf.id].sent)
        self._advance(root)

    def take_workflow(self, publications: Sequence[Publication]) -> None:
        """Take a workflow by its first messages; the tasks that follow are in them."""
        tasks = {id_: task for publication in publications for id_, task in _tasks_in(publication)}
        trees = (record.tree for record in reversed(self._backend.records.values()))
        self.take(next(tree for tree in trees if any(leaf.id in tasks for leaf in tree.leaves())), tasks)

    def find(self, task: str) -> TaskNode:
        """Return the task or workflow of this id, or the oldest task of this name that has not ended.

        Raises:
            LookupError: there is none.
        """
        if task in self._roots:
            root = self._roots[task]
            return root if root.id == task else _leaf(self._tasks[task])
        for known in self._tasks.values():
            if known.sent.name == task and not known.state.is_final:
                return _leaf(known)
        raise LookupError(f"there is no task {task} that has not ended; {self.told()}")

    def told(self) -> str:
        """Say what was sent."""
        lines = "".join(f"\n  {task}" for task in self.sent)
        return f"sent were:{lines}" if lines else "nothing was sent"

    def succeed(self, node: TaskNode, result: Any) -> None:
        """End a task, or what is left of a workflow; run what follows."""
        self._settle(node, result)
        self._advance(self._roots[node.id])

    def reach(self, node: TaskNode, state: TaskState, result: Any) -> None:
        """Give a task a state, or the first task of a workflow that has not ended."""
        leaves = [self._tasks[leaf.id] for leaf in node.leaves()]
        self._store(next((task for task in leaves if not task.state.is_final), leaves[-1]), state, result)

    def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """Stop what may be stopped, as workers do when they are told; ids that are not known may be others'."""
        for task in (self._tasks[id_] for id_ in task_ids if id_ in self._tasks):
            has_begun = task.state is not TaskState.QUEUED
            if not task.state.is_final and (terminate or not has_begun):
                self._store(task, TaskState.REVOKED, _revocation("terminated" if has_begun else "revoked"))

    def _store(self, task: _Task, state: TaskState, result: Any) -> None:
        """Change a task's state, and store it as Celery does with `result_extended`.

        Raises:
            ValueError: it has ended.
        """
        sent = task.sent
        if task.state.is_final:
            raise ValueError(f"{sent} has ended already: {task.state}")
        task.state, task.result = state, result
        meta = {
            "status": str(state),
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": datetime.now(UTC).isoformat() if state.is_final else None,
            "task_id": sent.id,
            "name": sent.name,
            "args": list(sent.args),
            "kwargs": sent.kwargs,
            "worker": "fake@localhost",
            "retries": 0,
            "queue": sent.queue,
        }
        self._backend.put(sent.id, meta)
        if state.is_final:
            entry = {
                "id": sent.id,
                "name": sent.name,
                "state": str(state),
                "worker": meta["worker"],
                "attempts": "1",
            }
            if sent.queue:
                entry["queue"] = sent.queue
            if state is TaskState.FAILURE:
                entry["error"] = result["exc_type"]
            if (root := self._roots[sent.id]).id != sent.id:
                entry["root_id"] = root.id
            self._backend.append(entry)

    def _settle(self, node: TaskNode, result: Any) -> None:
        if node.kind is NodeKind.TASK:
            self._store(self._tasks[node.id], TaskState.SUCCESS, result)
        elif node.kind is NodeKind.GROUP:
            if not isinstance(result, list) or len(result) != len(node.children):
                raise ValueError(f"a group of {len(node.children)} has a list of so many results, not {result!r}")
            for child, item in zip(node.children, result, strict=True):
                self._settle(child, item)
        else:
            for leaf in (leaf for child in node.children[:-1] for leaf in child.leaves()):
                if not self._tasks[leaf.id].state.is_final:
                    self._store(self._tasks[leaf.id], TaskState.SUCCESS, None)
            self._settle(node.children[-1], result)

    def _advance(self, node: TaskNode, passed: Any = _NOTHING) -> Any:
        """Run what can run of it, with what the task before it passes on; return its result, or `_NOTHING`."""
        match node.kind:
            case NodeKind.TASK:
                return self._run(self._tasks[node.id], passed)
            case NodeKind.GROUP:
                return self._advance_all(node.children, passed)
            case NodeKind.CHORD:
                header = self._advance_all(node.children[:-1], passed)
                return _NOTHING if header is _NOTHING else self._advance(node.children[-1], header)
            case NodeKind.CHAIN:
                for child in node.children:
                    passed = self._advance(child, passed)
                    if passed is _NOTHING:
                        break
                return passed

    def _advance_all(self, nodes: Sequence[TaskNode], passed: Any) -> Any:
        results = [self._advance(node, passed) for node in nodes]
        return _NOTHING if any(result is _NOTHING for result in results) else results

    def _run(self, task: _Task, passed: Any) -> Any:
        sent, function = task.sent, self.functions.get(task.sent.name)
        if function is not None and task.state is TaskState.QUEUED:
            args = sent.args if passed is _NOTHING or task.is_immutable else (passed, *sent.args)
            try:
                result = _received(function(*args, **sent.kwargs))
            except Exception as error:
                self._store(task, TaskState.FAILURE, _exception(error))
            else:
                self._store(task, TaskState.SUCCESS, result)
        return task.result if task.state is TaskState.SUCCESS else _NOTHING


class _MemoryBroker:
    """Implements `types.Broker`: hands everything to the worker."""

    def __init__(self, worker: _Worker) -> None:
        self.error: type[PublishError] | None = None
        self._worker = worker

    async def publish(self, message: TaskMessage) -> None:
        """See `Broker`."""
        self._check_up(message.task_id)
        args, kwargs = _received_arguments(message)
        sent = SentTask(
            id=message.task_id,
            name=message.name,
            args=tuple(args),
            kwargs=kwargs,
            queue=message.queue,
            expires=message.expires,
            countdown=message.countdown,
            priority=message.priority,
            headers=message.headers,
        )
        root = TaskNode(kind=NodeKind.TASK, id=sent.id, name=sent.name)
        self._worker.take(root, {sent.id: _Task(sent=sent)})

    async def publish_all(
        self, publications: Sequence[Publication], *, after: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """See `Broker`."""
        self._check_up(None)
        if after is not None:
            await after()
        self._worker.take_workflow(publications)

    async def revoke(self, task_ids: Sequence[str], *, terminate: bool) -> None:
        """See `Broker`."""
        self._check_up(None)
        self._worker.revoke(task_ids, terminate=terminate)

    async def ping(self) -> None:
        """See `Broker`."""
        self._check_up(None)

    async def aclose(self) -> None:
        """See `Broker`."""

    def _check_up(self, task_id: str | None) -> None:
        if self.error is not None:
            raise self.error("the broker is down: the test said so, with broker_down()", task_id=task_id)


class _MemoryBackend:
    """Implements `types.Backend` over dicts."""

    worker: "_Worker"

    def __init__(self) -> None:
        self.is_down = False
        self.metas: dict[str, Meta] = {}
        self.records: dict[str, TaskRecord] = {}
        self.times: dict[str, dict[str, float]] = {}
        self.ended: list[HistoryRow] = []
        self._followers: set[Callable[[], object]] = set()

    def put(self, task_id: str, meta: Meta) -> None:
        """Store a state, and tell those who follow."""
        self.metas[task_id] = meta
        self.wake()

    def append(self, fields: Mapping[str, str]) -> None:
        """Append to the history."""
        milliseconds = time.time_ns() // 1_000_000
        self.ended.append((f"{milliseconds}-{len(self.ended)}", fields))

    def wake(self) -> None:
        """Let everybody look again."""
        for follower in self._followers.copy():
            follower()

    def expect(self) -> Expectation:
        """See `Backend`."""
        return None

    async def ending(
        self, task_id: str, expectation: Expectation | None = None, *, within: float | None = None
    ) -> Meta | None:
        """See `Backend`."""
        return await ending_of(self.follow((task_id,), expectation), within)

    async def follow(
        self,
        task_ids: Sequence[str],
        expectation: Expectation | None = None,  # noqa: ARG002 (as above)
    ) -> AsyncGenerator[list[tuple[str, Meta]]]:
        """See `Backend`."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            # A test may end a task in another thread than the loop's.
            loop.call_soon_threadsafe(changed.set)

        self._followers.add(wake)
        seen: dict[str, Meta] = {}
        try:
            while True:
                changed.clear()
                stored = {} if self.is_down else {id_: self.metas[id_] for id_ in task_ids if id_ in self.metas}
                if batch := [(id_, meta) for id_, meta in stored.items() if seen.get(id_) is not meta]:
                    seen.update(batch)
                    yield batch
                else:
                    await changed.wait()
        finally:
            self._followers.discard(wake)

    async def read(self, task_id: str) -> tuple[Meta | None, TaskRecord | None]:
        """See `Backend`."""
        self._check_up()
        return self.metas.get(task_id), self.records.get(task_id)

    async def read_many(self, task_ids: Sequence[str]) -> list[Meta | None]:
        """See `Backend`."""
        self._check_up()
        return [self.metas.get(task_id) for task_id in task_ids]

    async def save(
        self,
        workflow_id: str,
        record: TaskRecord,
        calls: Sequence[BackendCall],  # noqa: ARG002 (for workers that count a chord's results)
    ) -> None:
        """See `Backend`."""
        self._check_up()
        self.records[workflow_id] = record

    async def bury(self, task_ids: Sequence[str], *, terminate: bool) -> bool:
        """See `Backend`. The worker finds tombstones at once."""
        self._check_up()
        self.worker.revoke(task_ids, terminate=terminate)
        return True

    async def mark_revoked(self, task_ids: Sequence[str]) -> None:  # noqa: ARG002 (the worker has done it)
        """See `Backend`."""
        self._check_up()

    async def history(self, *, since: str | None, before: str | None, count: int) -> list[HistoryRow]:
        """See `Backend`."""
        self._check_up()
        first = 0 if since is None else bisect_left(self.ended, id_parts(since), key=_place)
        end = None if before is None else bisect_left(self.ended, id_parts(before), key=_place)
        return self.ended[first:end][::-1][:count]

    async def note(self, times: Mapping[str, Mapping[str, float]]) -> None:
        """See `Backend`."""
        self._check_up()
        for task_id, of_task in times.items():
            self.times[task_id] = {**of_task, **self.times.get(task_id, {})}

    async def noted(self, task_id: str) -> dict[str, float]:
        """See `Backend`."""
        self._check_up()
        return dict(self.times.get(task_id, {}))

    async def forget(self, task_ids: Sequence[str], *, record_of: str) -> None:
        """See `Backend`."""
        self._check_up()
        self.records.pop(record_of, None)
        for task_id in task_ids:
            self.metas.pop(task_id, None)

    async def ping(self) -> None:
        """See `Backend`."""
        self._check_up()

    async def aclose(self) -> None:
        """See `Backend`."""

    def _check_up(self) -> None:
        if self.is_down:
            raise BackendError("the result backend is down: the test said so, with backend_down()")


def _place(row: HistoryRow) -> tuple[int, int]:
    return id_parts(row[0])


def _tasks_in(publication: Publication) -> Iterator[tuple[str, _Task]]:
    """Yield the task of this message, and those that it brings along: the rest of its chain, its chord's body."""
    args, kwargs, embedded = publication.body
    headers, declared = publication.options["headers"], publication.options.get("declare")
    sent = SentTask(
        id=headers["id"],
        name=headers["task"],
        args=tuple(_received(args)),
        kwargs=_received(kwargs),
        queue=declared[0].name if declared else publication.options.get("routing_key"),
    )
    yield sent.id, _Task(sent=sent)
    yield from _signatures_in(embedded)


def _signatures_in(value: Any) -> Iterator[tuple[str, _Task]]:
    """Yield every task in a structure of canvases, which are dicts."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _signatures_in(item)
    elif isinstance(value, Mapping):
        if "subtask_type" in value and value["subtask_type"] not in _CONTAINERS:
            sent = SentTask(
                id=value["options"]["task_id"],
                name=value["task"],
                args=tuple(_received(value["args"])),
                kwargs=_received(value["kwargs"]),
                queue=value["options"].get("queue"),
            )
            yield sent.id, _Task(sent=sent, is_immutable=value["immutable"])
        for item in value.values():
            yield from _signatures_in(item)


def _leaf(task: _Task) -> TaskNode:
    return TaskNode(kind=NodeKind.TASK, id=task.sent.id, name=task.sent.name)


def _received_arguments(message: TaskMessage) -> tuple[Any, Any]:
    if message.serializer != SIGNED_PICKLE:
        args, kwargs = _received((message.args, message.kwargs), message.serializer)
        return args, kwargs
    body = TaskBody.of(
        (tuple(message.args), dict(message.kwargs), {}),
        task_id=message.task_id,
        name=message.name,
        expires=time.time() + message.expires,
    )
    # Sealed, so that what could not travel is found; not opened: whoever sends need not be able to.
    with _refusing(body):
        dumps(body, message.serializer)
    return body[0], body[1]


def _received(value: Any, serializer: str = "json") -> Any:
    """Return what is left of a value that was serialized and read again.

    Raises:
        PayloadError: it cannot be.
    """
    with _refusing(value):
        content_type, encoding, payload = dumps(value, serializer)
        return loads(payload, content_type, encoding, accept=[content_type])


@contextlib.contextmanager
def _refusing(value: Any) -> Iterator[None]:
    try:
        yield
    except (KombuError, TypeError, ValueError, RecursionError) as exc:
        raise PayloadError(f"{value!r:.200} cannot be serialised: {exc}") from exc


def _exception(error: Exception) -> dict[str, Any]:
    """Return an exception as Celery's JSON backends store it."""
    message = ensure_serializable(list(error.args), _received)
    return {"exc_type": type(error).__qualname__, "exc_message": message, "exc_module": type(error).__module__}


def _revocation(reason: str) -> dict[str, Any]:
    return {"exc_type": "TaskRevokedError", "exc_message": [reason], "exc_module": "celery.exceptions"}


def _as_lists(value: Any) -> Any:
    """Return a value with tuples turned into lists, as JSON does; unlike JSON, it leaves `mock.ANY` as it is."""
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


def _call(name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
    """Write a task as a call; what may be anything is `…`."""
    given = ["…"] if args is None else [f"{arg!r:.80}" for arg in args]
    given += ["**…"] if kwargs is None else [f"{key}={value!r:.80}" for key, value in kwargs.items()]
    return f"{name}({', '.join(given)})"
