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

Tasks are given to idle processes only (Celery's `-O fair`, its default); `-O fast` would write several into one
process's pipe, behind a long one, and is not heeded.

Most of this overrides what billiard and Celery keep to themselves, in the versions that `requirements` pin;
`tests/unit/worker/test_pool.py` says which of their ways it relies on. Nothing of it can be had by configuration.

What belongs here: what goes between the main process and its pool.
"""

import os
import pickle  # between processes of one worker, as billiard does it
from collections.abc import Callable, Iterator
from ctypes import c_longlong
from struct import Struct
from time import monotonic
from typing import Any
from weakref import ref

from billiard.pool import ACK
from celery import bootsteps
from celery.concurrency import asynpool, prefork

# Their type stubs are older than they are.
_CeleryWorker: Any = asynpool.Worker
_CeleryHandler: Any = asynpool.ResultHandler
_CeleryPool: Any = asynpool.AsynPool

_HEADER = Struct(">I")
_AT_ONCE = 64 * 1024  # bytes that are read of a pipe; as much as one holds


class Worker(_CeleryWorker):  # type: ignore[misc]  # Celery's stubs, see above
    """What runs in a process of the pool."""

    outq: Any
    begun: Any
    """The number of the job that this process began last, in memory shared with the main process."""

    def __reduce__(self) -> tuple[Any, ...]:
        # For processes that are not forked.
        return *super().__reduce__(), {"begun": self.begun}

    def on_loop_start(self, pid: int) -> None:
        """Say that the process is up; from now on, tell what it has begun in the shared memory."""
        super().on_loop_start(pid)
        self.outq = _Results(self.outq, self.begun)

    def _make_recv_method(self, queue: Any) -> Callable[[float], tuple[bool, Any]]:
        # Billiard's own reads each message in two parts.
        fd = queue._reader.fileno()
        buffer = bytearray()

        def receive(_: float) -> tuple[bool, Any]:
            while True:
                if len(buffer) >= _HEADER.size:
                    end = _HEADER.size + _HEADER.unpack_from(buffer)[0]
                    if len(buffer) >= end:
                        message = pickle.loads(memoryview(buffer)[_HEADER.size : end])  # noqa: S301
                        del buffer[:end]
                        return True, message
                data = os.read(fd, _AT_ONCE)
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
    on_state_change: Callable[[Any], None]

    def _make_process_result(self, hub: Any) -> Callable[[int], None]:
        def on_readable(fd: int) -> None:
            if fd not in self.fileno_to_outq:
                hub.remove_reader(fd)
                return
            try:
                data = os.read(fd, _AT_ONCE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                hub.remove_reader(fd)
                return
            view, at = memoryview(data), 0
            while len(data) - at >= _HEADER.size:
                end = at + _HEADER.size + _HEADER.unpack_from(view, at)[0]
                if end > len(data):
                    break
                self.on_state_change(pickle.loads(view[at + _HEADER.size : end]))  # noqa: S301
                at = end
            if at < len(data):
                # As Celery does it: whoever needs the pipe for himself finishes what is registered.
                hub.add_reader(fd, self._read_rest(hub, fd, bytearray(view[at:])))

        return on_readable

    def _read_rest(self, hub: Any, fd: int, buffer: bytearray) -> Iterator[None]:
        """Read the rest of one message, and no more than that."""
        while True:
            end = _HEADER.size
            if len(buffer) >= end:
                end += _HEADER.unpack_from(buffer)[0]
                if len(buffer) == end:
                    break
            try:
                data = os.read(fd, end - len(buffer))
            except BlockingIOError:
                yield
            else:
                if not data:
                    raise EOFError
                buffer.extend(data)
        hub.add_reader(fd, self.handle_event, fd)
        self.on_state_change(pickle.loads(memoryview(buffer)[_HEADER.size :]))  # noqa: S301


class AsynPool(_CeleryPool):  # type: ignore[misc]  # Celery's stubs, see above
    """Celery's pool, which gives tasks to its processes with one system call."""

    Worker = Worker
    ResultHandler = ResultHandler

    # Celery's own, which its type stubs lack.
    outbound_buffer: Any
    _ctx: Any
    _cache: dict[int, Any]
    _fileno_to_inq: dict[int, Any]
    _all_inqueues: set[int]
    _busy_workers: set[int]
    _active_writes: set[int]
    _active_writers: set[Any]
    _put_back: Callable[[Any], None]
    _discard_tref: Callable[[int], None]
    on_timeout_set: Callable[[Any, float | None, float | None], None]

    @property
    def has_waiting(self) -> bool:
        """Whether a task waits for a process."""
        return bool(self.outbound_buffer)

    def WorkerProcess(self, worker: Any) -> Any:  # noqa: N802 (billiard's name)
        """Return a process that runs `worker`."""
        worker.begun = self._ctx.RawValue(c_longlong, -1)
        process = super().WorkerProcess(worker)
        process.begun = worker.begun
        return process

    def _create_write_handlers(self, hub: Any, **options: Any) -> None:
        # Celery's own also make `_put_back` and others that are used on.
        super()._create_write_handlers(hub, **options)
        self._quick_put = self._take
        self.on_poll_start = self._look_again
        self._hub = hub

    def _take(self, message: tuple[Any, ...]) -> None:
        """Take a task, which goes out when the event loop has done all that there was to do."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        job = self._cache[message[1][0]]
        job._payload = _HEADER.pack(len(body)) + body
        if not self.outbound_buffer:
            self._hub.call_soon(self._hand_out)
        self.outbound_buffer.append(job)

    def on_job_ready(self, job: Any, i: Any, obj: Any, inqW_fd: int) -> None:  # noqa: N803 (billiard's name)
        """Have the next task written to a process that has told the end of its last one."""
        super().on_job_ready(job, i, obj, inqW_fd)
        if self.outbound_buffer:
            self._hub.call_soon(self._hand_out)

    def _look_again(self) -> None:
        """Write what waits though nothing has been told: a process has come up, a task has come back."""
        if self.outbound_buffer and self._hand_out():
            # The loop has looked at its timers for this turn: those of the tasks' time limits are new.
            self._hub._waker.wake()

    def _hand_out(self) -> bool:
        """Write waiting tasks to idle processes; return whether there was one to write.

        The event loop calls it before it looks at its timers, so that it wakes up for the tasks' time limits.
        """
        waiting, handed = self.outbound_buffer, False
        for fd in self._all_inqueues - self._busy_workers - self._active_writes:
            process = self._fileno_to_inq[fd]
            if getattr(process, "_job_terminated", False):
                # Its end is on its way: it was told to end its last task. Another one would count as told, too.
                continue
            while waiting:
                job = waiting.popleft()
                # Else whoever terminated it, or a process that told its end before it was gone, has it done.
                if not job._accepted:
                    self._give(process, fd, job)
                    handed = True
                    break
        return handed

    def _give(self, process: Any, fd: int, job: Any) -> None:
        """Write a task to an idle process."""
        job._scheduled_for = job._write_to = process
        self._busy_workers.add(fd)
        writer = self._write(process, fd, job)
        try:
            next(writer)
        except StopIteration:
            return
        # What Celery needs to know of what is written only in part.
        job._writer = ref(writer)
        self._active_writes.add(fd)
        self._active_writers.add(writer)
        self._hub.add_writer(fd, writer)

    def _write(self, process: Any, fd: int, job: Any) -> Iterator[None]:
        """Write a task to a process, which then has it; wait where there is no room."""
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
            self.write_stats[process.index] += 1
            if waited:
                self._hub.remove_writer(fd)
                self._active_writes.discard(fd)
                self._active_writers.discard(job._writer())
        self._result_handler.on_state_change((ACK, (job._job, None, monotonic(), process.pid, process.synqW_fd)))

    def _on_soft_timeout(self, job: int, soft: float, hard: float | None, hub: Any) -> None:
        """End a task softly; let one that its process has not begun yet have its time again."""
        if self._has_begun(job):
            super()._on_soft_timeout(job, soft, hard, hub)
        else:
            # The signal would hit the process itself.
            self.on_timeout_set(self._cache[job], soft, hard)

    def _on_hard_timeout(self, job: int) -> None:
        """End a task with its process; let one that its process has not begun yet have its time again."""
        if self._has_begun(job):
            super()._on_hard_timeout(job)
        else:
            self.on_timeout_set(self._cache[job], None, self._cache[job]._timeout)

    def _has_begun(self, job: int) -> bool:
        """Whether a task was begun, or has ended already."""
        given = self._cache.get(job)
        return given is None or given._write_to is None or given._write_to.begun.value == job

    def on_job_process_lost(self, job: Any, pid: int, exitcode: int) -> None:
        """Give a task to another process if its own has ended before it began it; else it is lost with it."""
        process = job._write_to
        if process is None or process.pid != pid or process.begun.value == job._job:
            super().on_job_process_lost(job, pid, exitcode)
            return
        self._discard_tref(job._job)
        job._accepted, job._worker_pid = False, None
        self._put_back(job)


class TaskPool(prefork.TaskPool):
    """Celery's pool `prefork`, with our processes."""

    Pool = AsynPool


class OwnPool(bootsteps.Step):
    """Gives the worker our pool where it would have Celery's `prefork`."""

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        if worker.pool_cls is prefork.TaskPool:
            worker.pool_cls = TaskPool
