"""Pool: Celery's pool of processes, with fewer messages between them, and fewer system calls for each.

How it works: where many short tasks run, most of a worker's time goes into telling its processes what to do.
Celery's pool asks the kernel when a process can be written to, writes a task in two parts, reads that the process
has it, reads that it is done, each in two parts, and changes what it waits for in between. Here a task is written
at once to a process that is known to be idle: its pipe is empty, so a task that is not large fits; what does not
fit is written when there is room, as by Celery. A process is idle, so what is written to it is what it does: that
it has it is not told back. One read takes all that a process has told.

What a process has begun it writes into memory that it shares with the main process. If it dies, the main process
looks there: a task that was begun counts as lost with its process, one that was not goes to another process. That
is what Celery's message says, and it is there even when the process is killed before it could send one.

When all processes are busy, one more task is written ahead into the pipe of each that has just begun another: it
need not wait for the main process between the two. It counts as begun when the process has told the end of the
one before it. Until then it lies in the pipe as a whole, unless the process has read it, because it has ended the
other. So the main process can read it back, and does when a process is idle, when the task before it turns out to
be a long one, before that one is ended by force, and when the connection to the broker is lost. No task waits
behind a long one while it could run (Celery's `-O fair`, its default; `-O fast` is not heeded).

Most of this overrides what billiard and Celery keep to themselves, in the versions that `requirements` pin;
`tests/unit/worker/test_pool.py` says which of their ways it relies on. Nothing of it can be had by configuration.

What belongs here: what goes between the main process and its pool.
"""

import os
import pickle  # between processes of one worker, as billiard does it
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from ctypes import c_longlong
from struct import Struct
from time import monotonic
from typing import Any
from weakref import ref

from billiard.pool import ACK, READY, RUN
from celery import bootsteps
from celery.concurrency import asynpool, prefork
from celery.exceptions import ImproperlyConfigured

# Their type stubs are older than they are.
_CeleryWorker: Any = asynpool.Worker
_CeleryHandler: Any = asynpool.ResultHandler
_CeleryPool: Any = asynpool.AsynPool

_HEADER = Struct(">I")
_AT_ONCE = 64 * 1024  # bytes that are read of a pipe; as much as one holds
_LONG = 0.02  # s; a task that has run for longer has none waiting behind it
_AGAIN = 0.05  # s; until a process that is about to end is looked at again


class Worker(_CeleryWorker):  # type: ignore[misc]  # Celery's stubs, see above
    """What runs in a process of the pool."""

    outq: Any
    begun: Any
    """The number of the job that this process began last, in memory shared with the main process."""

    def on_loop_start(self, pid: int) -> None:
        """Say that the process is up; from now on, tell what it has begun in the shared memory."""
        super().on_loop_start(pid)
        self.outq = _Results(self.outq, self.begun)

    def _make_recv_method(self, queue: Any) -> Callable[[float], tuple[bool, Any]]:
        # Billiard's own reads each message in two parts.
        fd = queue._reader.fileno()
        buffer = bytearray()
        readable = select.poll()
        readable.register(fd, select.POLLIN)

        def receive(_: float) -> tuple[bool, Any]:
            while True:
                if len(buffer) >= _HEADER.size:
                    end = _HEADER.size + _HEADER.unpack_from(buffer)[0]
                    if len(buffer) >= end:
                        message = pickle.loads(memoryview(buffer)[_HEADER.size : end])  # noqa: S301
                        del buffer[:end]
                        return True, message
                try:
                    data = os.read(fd, _AT_ONCE)
                except BlockingIOError:
                    readable.poll()
                    continue
                if not data:
                    raise EOFError
                buffer.extend(data)

        return receive


class _Results:
    """The way back from a process: Celery's, without its word on what has begun."""

    def __init__(self, queue: Any, begun: Any) -> None:
        self._queue, self._begun = queue, begun

    def put(self, message: tuple[int, Any]) -> None:
        kind, arguments = message
        if kind == ACK:
            self._begun.value = arguments[0]
            return
        try:
            body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        except Exception:
            # Billiard's own knows how to pickle more, and is slower.
            self._queue.put(message)
        else:
            self._queue.send_payload(body)


class ResultHandler(_CeleryHandler):  # type: ignore[misc]  # Celery's stubs, see above
    """Reads what the processes tell."""

    fileno_to_outq: dict[int, Any]
    state_handlers: dict[int, Callable[..., None]]
    on_state_change: Callable[[Any], None]
    on_ended: Callable[[int], None]
    """Told of the pipe of each process that has told the end of a task."""

    def _make_methods(self) -> None:
        super()._make_methods()
        ready = self.state_handlers[READY]

        def on_ready(job: int, i: Any, obj: Any, inqW_fd: int) -> None:  # noqa: N803 (billiard's name)
            ready(job, i, obj, inqW_fd)
            self.on_ended(inqW_fd)

        self.state_handlers[READY] = on_ready

    def _make_process_result(self, hub: Any) -> Callable[[int], None]:
        def on_readable(fd: int) -> None:
            process = self.fileno_to_outq.get(fd)
            if process is None or not self.read(process):
                hub.remove_reader(fd)

        return on_readable

    def read(self, process: Any) -> bool:
        """Take what a process has told, without waiting; return whether it can tell more.

        What has come only in part is kept until the rest comes.
        """
        try:
            data = os.read(process.outq._reader.fileno(), _AT_ONCE)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        told = process.told
        told += data
        while len(told) >= _HEADER.size and len(told) >= (end := _HEADER.size + _HEADER.unpack_from(told)[0]):
            message = pickle.loads(memoryview(told)[_HEADER.size : end])  # noqa: S301
            # First: what is called may read on.
            del told[:end]
            if message is not None:
                self.on_state_change(message)
        return True

    def _flush_outqueue(self, fd: int, remove: Callable[[int], None], processes: dict[int, Any], _: Any) -> None:
        """Take what a process tells while the worker shuts down."""
        process = processes.get(fd)
        if process is None:
            remove(fd)
            return
        try:
            process.outq._reader.poll(_AGAIN)
        except OSError:
            remove(fd)
        else:
            if not self.read(process):
                remove(fd)


class AsynPool(_CeleryPool):  # type: ignore[misc]  # Celery's stubs, see above
    """Celery's pool, which gives tasks to its processes with one system call.

    Raises:
        ImproperlyConfigured: processes are not forked here.
    """

    Worker = Worker
    ResultHandler = ResultHandler

    # Celery's own, which its type stubs lack.
    outbound_buffer: Any
    _ctx: Any
    _state: int
    _pool: list[Any]
    _putlock: Any
    _hub: Any = None
    _cache: dict[int, Any]
    _fileno_to_inq: dict[int, Any]
    _all_inqueues: set[int]
    _busy_workers: set[int]
    _active_writes: set[int]
    _active_writers: set[Any]
    _put_back: Callable[[Any], None]
    _discard_tref: Callable[[int], None]
    on_timeout_set: Callable[[Any, float | None, float | None], None]

    def __init__(self, processes: int | None = None, *args: Any, **options: Any) -> None:
        self._ahead: set[Any] = set()
        """The processes that have a task in their pipes behind the one that they run."""
        self._looks_for_long: Any = None
        super().__init__(processes, *args, **options)
        if self._ctx.get_start_method() != "fork":
            raise ImproperlyConfigured(
                "the worker's pool forks its processes: leave the start method of processes at `fork`, or take "
                "`--pool solo` or `threads`"
            )
        self._result_handler.on_ended = self._go_on
        # As many tasks as the processes run may be ahead, beside those.
        for _ in range(self._processes):
            self._putlock.grow()

    def on_grow(self, n: int) -> None:
        """Let in twice as many tasks as processes are added."""
        super().on_grow(n)
        for _ in range(n):
            self._putlock.grow()

    def on_shrink(self, n: int) -> None:
        """Let in twice as many tasks fewer as processes are taken away."""
        super().on_shrink(n)
        for _ in range(n):
            self._putlock.shrink()

    @property
    def has_waiting(self) -> bool:
        """Whether a task waits for a process."""
        return bool(self.outbound_buffer or self._ahead)

    def WorkerProcess(self, worker: Any) -> Any:  # noqa: N802 (billiard's name)
        """Return a process that runs `worker`."""
        worker.begun = self._ctx.RawValue(c_longlong, -1)
        process = super().WorkerProcess(worker)
        process.begun = worker.begun
        process.told = bytearray()
        process.task = process.ahead = None
        return process

    def create_process_queues(self) -> tuple[Any, ...]:
        """Return a new process's pipes; the main process can read the one for tasks, too, without waiting."""
        inq, *others = super().create_process_queues()
        os.set_blocking(inq._reader.fileno(), False)
        return inq, *others

    def _create_write_handlers(self, hub: Any, **options: Any) -> None:
        # Celery's own also make `_put_back` and others that are used on.
        super()._create_write_handlers(hub, **options)
        self._quick_put = self._take
        self.on_poll_start = self._look_again
        self._hub = hub
        if self._looks_for_long is not None:
            # The worker may have dropped all timers with its connection.
            self._looks_for_long.cancel()
            self._looks_for_long = None

    def _take(self, message: tuple[Any, ...]) -> None:
        """Take a task, which goes out when the event loop has done all that there was to do."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        job = self._cache[message[1][0]]
        job._payload = _HEADER.pack(len(body)) + body
        if not self.outbound_buffer:
            self._hub.call_soon(self._hand_out)
        self.outbound_buffer.append(job)

    def _go_on(self, fd: int) -> None:
        """Have a process that has told the end of a task go on with the next one."""
        process = self._fileno_to_inq.get(fd)
        if process is None:
            return
        process.task = None
        if getattr(process, "_job_terminated", False):
            # It was told to end with its task, and has ended the task instead.
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if (job := process.ahead) is not None:
            process.ahead = None
            self._ahead.discard(process)
            self._busy_workers.add(fd)
            self._accept(process, job)
        if self.has_waiting:
            self._hub.call_soon(self._hand_out)

    def _look_again(self) -> None:
        """Write what waits though nothing has been told: a process has come up, a task has come back."""
        if self.outbound_buffer and self._hand_out():
            # The loop has looked at its timers for this turn: those of the tasks' time limits are new.
            self._hub._waker.wake()

    def _hand_out(self) -> bool:
        """Write waiting tasks to idle processes, then ahead to others; return whether one was written.

        The event loop calls it before it looks at its timers, so that it wakes up for the tasks' time limits.
        """
        handed = False
        for fd in self._all_inqueues - self._busy_workers - self._active_writes:
            process = self._fileno_to_inq[fd]
            if getattr(process, "_job_terminated", False):
                # Its end is on its way: it was told to end its last task. Another one would count as told, too.
                continue
            job = self._next_waiting()
            if job is None and self._ahead:
                # It can begin at once what would wait behind another task.
                self.take_back(min(self._ahead, key=_begun_at))
                job = self._next_waiting()
            if job is None:
                return handed
            self._give(process, fd, job)
            handed = True
        if self.outbound_buffer and self._state == RUN:
            lately = monotonic() - _LONG
            for process in self._fileno_to_inq.values():
                if _may_have_ahead(process, lately) and process.inqW_fd not in self._active_writes:
                    job = self._next_waiting()
                    if job is None:
                        break
                    if not self._write_ahead(process, job):
                        self.outbound_buffer.appendleft(job)
                        break
                    handed = True
        return handed

    def _next_waiting(self) -> Any:
        """Return the task that is to be handed out next, None for none."""
        while self.outbound_buffer:
            job = self.outbound_buffer.popleft()
            # Else whoever terminated it, or a process that told its end before it was gone, has it done.
            if not job._accepted:
                return job
        return None

    def _write_ahead(self, process: Any, job: Any) -> bool:
        """Write a task into the pipe of a process that runs another one; return whether it is there."""
        if len(job._payload) > select.PIPE_BUF:
            return False
        try:
            os.write(process.inqW_fd, job._payload)
        except OSError:
            # There is no room, or it has just died.
            return False
        job._scheduled_for = process
        process.ahead = job
        self._ahead.add(process)
        if self._looks_for_long is None:
            self._looks_for_long = self._hub.call_later(_LONG, self._take_back_from_long)
        return True

    def _take_back_from_long(self) -> None:
        """Have no task wait behind one that runs for long."""
        lately = monotonic() - _LONG
        for process in tuple(self._ahead):
            if _begun_at(process) <= lately:
                self.take_back(process)
        # One timer for all, however often there was none ahead meanwhile.
        self._looks_for_long = self._hub.call_later(_LONG, self._take_back_from_long) if self._ahead else None

    def take_back(self, process: Any) -> bool:
        """Read a task that was written ahead back; return whether the process has none that it could begin.

        When it has it already, it has ended the one before: that is read, and the next one counts as begun.
        """
        job = process.ahead
        if job is None:
            return True
        try:
            os.read(process.inq._reader.fileno(), _AT_ONCE)
        except BlockingIOError:
            self._result_handler.read(process)
            return False
        process.ahead = job._scheduled_for = None
        self._ahead.discard(process)
        self._put_back(job)
        return True

    def take_all_back(self) -> None:
        """Read all tasks back that were written ahead: only those that have begun stay with their processes."""
        for process in tuple(self._ahead):
            self.take_back(process)

    def _give(self, process: Any, fd: int, job: Any) -> None:
        """Write a task to an idle process."""
        self._busy_workers.add(fd)
        # First: what is written in part when the connection is lost will run, and is not forgotten.
        self._accept(process, job)
        writer = self._write(fd, job)
        try:
            next(writer)
        except StopIteration:
            return
        # What Celery needs to know of what is written only in part.
        job._writer = ref(writer)
        self._active_writes.add(fd)
        self._active_writers.add(writer)
        self._hub.add_writer(fd, writer)

    def _write(self, fd: int, job: Any) -> Iterator[None]:
        """Write a task to a process; wait where there is no room."""
        rest = memoryview(job._payload)
        waited = False
        try:
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:
                    waited = True
                    yield
                except OSError:
                    # It has just died; who cleans up after it gives the task to another.
                    return
        finally:
            if waited:
                self._hub.remove_writer(fd)
                self._active_writes.discard(fd)
                self._active_writers.discard(job._writer())

    def _accept(self, process: Any, job: Any) -> None:
        """Count a task as begun by a process."""
        self.write_stats[process.index] += 1
        job._scheduled_for = job._write_to = process
        # Celery's own, above, it turns to whichever process gets a pipe of the same number.
        job._given_to = process
        process.task = job
        self._result_handler.on_state_change((ACK, (job._job, None, monotonic(), process.pid, process.synqW_fd)))

    def _on_soft_timeout(self, job: int, soft: float, hard: float | None, hub: Any) -> None:
        """End a task softly; let one that its process has not begun yet have its time again."""
        if self._is_run(job):
            super()._on_soft_timeout(job, soft, hard, hub)
        elif (given := self._cache.get(job)) is not None:
            # The signal would hit the process itself, or the task after it.
            self.on_timeout_set(given, soft, hard)

    def _on_hard_timeout(self, job: int) -> None:
        """End a task with its process; let one that its process has not begun yet have its time again."""
        if self._is_run(job):
            super()._on_hard_timeout(job)
        elif (given := self._cache.get(job)) is not None:
            self.on_timeout_set(given, None, given._timeout)

    def _is_run(self, job: int) -> bool:
        """Whether a task was begun and, if it has ended, no other one can have been after it."""
        given = self._cache.get(job)
        process = getattr(given, "_given_to", None)
        if process is None:
            return False
        self.take_back(process)
        # It may have ended while the event loop was busy.
        self._result_handler.read(process)
        return job in self._cache and bool(process.begun.value == job)

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """End the task that a process runs, with the process; not the one after it."""
        process = next((process for process in self._pool if process.pid == pid), None)
        if process is None or self.take_back(process):
            super().terminate_job(pid, sig)

    def flush(self) -> None:
        """Forget what has not begun: the connection to the broker is lost, and it comes back."""
        self.take_all_back()
        super().flush()
        # Celery leaves what has come back meanwhile, from processes that had ended, in no place where it is run.
        for job in tuple(self._cache.values()):
            if not job._accepted:
                job.discard()

    def close(self) -> None:
        """Take no more tasks; what has begun ends."""
        self.take_all_back()
        super().close()

    def process_flush_queues(self, process: Any) -> None:
        """Take what a process that has ended has left in its pipes."""
        told = process.outq._reader
        if told.closed:
            return
        self.take_back(process)
        while told.poll(0) and self._result_handler.read(process):
            pass

    def destroy_queues(self, queues: Any, process: Any) -> Any:
        """Take what a process that has ended has left in its pipes, and close them.

        Celery closes them first where it sees one process's end while it cleans up after another.
        """
        self.process_flush_queues(process)
        return super().destroy_queues(queues, process)

    def _event_process_exit(self, hub: Any, process: Any) -> None:
        """Replace a process that has ended."""
        super()._event_process_exit(hub, process)
        if process in self._pool and self._state == RUN:
            # It has closed its end, and cannot be waited for yet.
            hub.call_later(_AGAIN, self._event_process_exit, hub, process)

    def _track_child_process(self, process: Any, hub: Any) -> None:
        if getattr(process, "_sentinel_poll", self) is None:
            # Seen ending when the event loop began anew: Celery would watch nothing, and fail.
            del process._sentinel_poll
        super()._track_child_process(process, hub)

    def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
        """Give a task to another process if its own has ended before it began it; else it is lost with it."""
        process = getattr(job, "_given_to", None)
        if process is None or process.begun.value == job._job:
            super().on_job_process_lost(job, pid, exitcode)
            return
        self._discard_tref(job._job)
        job._accepted, job._worker_pid = False, None
        self._put_back(job)


def _begun_at(process: Any) -> float:
    """Return when a process that has a task ahead has begun the one that it runs."""
    begun: float = process.task._time_accepted
    return begun


def _may_have_ahead(process: Any, lately: float) -> bool:
    """Whether a process has begun a task since `lately`, read all that it was given, and has nothing ahead."""
    task = process.task
    return (
        task is not None
        and process.ahead is None
        and task._time_accepted > lately
        and process.begun.value == task._job
        and not getattr(process, "_job_terminated", False)
    )


class TaskPool(prefork.TaskPool):
    """Celery's pool `prefork`, with our processes."""

    Pool = AsynPool


class OwnPool(bootsteps.Step):
    """Gives the worker our pool where it would have Celery's `prefork`."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        if worker.pool_cls is prefork.TaskPool:
            worker.pool_cls = TaskPool
