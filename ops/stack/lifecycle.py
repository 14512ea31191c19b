"""Starting and stopping an instance, in the order of its services' needs.

How it works: `up` checks the machine (packages, processes left behind, ports), starts the supervisor, then gives
each service a thread that waits for the services it needs, prepares, starts and polls its health check.
Environments are installed meanwhile. `down` stops in the reverse order and verifies that nothing is left.
A lock keeps two commands from changing one instance at the same time.

What belongs here: the order of things. How each thing is done is in the module that it is done by.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stack import environments, folders, packages, ports, processes, services
from stack.errors import GivenUpError, MachineNotReadyError, StackError
from stack.health import UnhealthyError
from stack.instance import Instance
from stack.progress import Board
from stack.service import Service
from stack.supervision import Supervisor

_POLL = 0.1  # s
_STOP_MARGIN = 10  # s on top of a program's own time to stop
_RESTARTS = 2  # of a service's programs while `up` waits for it: one more, and it will not get better
_ORPHANS = 15  # s that programs get to end after their supervisor was killed


@contextmanager
def exclusive(instance: Instance) -> Iterator[None]:
    """Be the only command that changes the instance.

    Raises:
        MachineNotReadyError: The state folder is not ours to write.
        StackError: Another command is at work on it.
    """
    folders.make(instance)
    path = instance.run / "lock"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackError(
                f"another ./stack command is at work here (pid {file.read().strip()})",
                hint="wait until it has finished, or end it with Ctrl-C",
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def up(instance: Instance, chosen: Iterable[Service], environ: Mapping[str, str], board: Board) -> Instance:
    """Start the services and all that they need, and wait until each is healthy. What runs already stays.

    Those in the background come last, and nobody waits for them.

    Args:
        instance: The instance as it was last started.
        chosen: The services to start.
        environ: The environment of the command; see `settings.py`.
        board: Where progress is shown.

    Returns:
        The instance with the settings in force.

    Raises:
        MachineNotReadyError: A port is taken, or a program is missing that no package brings.
        StackError: A service did not become healthy, or the machine lacks something.
        KeyboardInterrupt: The user gave up; what this call started has been stopped.
    """
    wanted = services.with_needs(chosen)
    for service in wanted:
        if service.binary is not None and service.is_left_out:
            raise MachineNotReadyError(f"{service.name} is not installed", hint=service.binary.how)
    cancelled = threading.Event()
    with exclusive(instance):
        was_up = Supervisor(instance).is_up
        instance = instance.settled(environ, services.PORTS, is_up=was_up)
        supervisor = Supervisor(instance)
        if missing := packages.missing(package for service in wanted for package in service.packages):
            board.report("packages", f"installing {len(missing)} with apt-get")
            packages.install(missing, instance, cancelled)
            board.report("packages", "ready")
        if not was_up:
            processes.end_left_behind(instance.state, _ORPHANS)
        for service in wanted:
            if not was_up or _has_ended(service, supervisor):
                for port in service.ports:
                    ports.require_free(port, instance.values)
        try:
            # What is not installed has no account to run as; an `up` that installs it tells the supervisor.
            here = [s for s in services.SERVICES if s.is_installed]
            programs = [program for service in here for program in service.programs]
            if was_up:
                supervisor.extend(programs)
            else:
                supervisor.launch(programs, environ)
            _start_all([s for s in wanted if not s.in_background], instance, board, cancelled)
            for service in wanted:
                if service.in_background:
                    _start_all([service], instance, board, cancelled)
        except KeyboardInterrupt:
            if not was_up:
                _stop_everything(instance, board)
            raise
    return instance


def is_running(instance: Instance, wanted: Iterable[Service]) -> bool:
    """Say whether every program of the services is running now."""
    supervisor = Supervisor(instance)
    if not supervisor.is_up:
        return False
    states = supervisor.states()
    return all(states[program.name].is_running for service in wanted for program in service.programs)


def start(instance: Instance, chosen: Sequence[Service], board: Board) -> None:
    """Start single services of an instance that is up, and wait until each is healthy, but in the background.

    Raises:
        StackError: The stack is down, or a service did not become healthy.
    """
    names = " ".join(service.name for service in chosen)
    if not Supervisor(instance).is_up:
        raise StackError("the stack is down", hint=f"to start these and what they need: ./stack up {names}")
    with exclusive(instance):
        _start_all(chosen, instance, board, threading.Event())


def stop(instance: Instance, chosen: Sequence[Service], board: Board) -> None:
    """Stop single services; the others go on.

    Raises:
        StackError: The stack is down, or a program does not stop.
    """
    supervisor = Supervisor(instance)
    if not supervisor.is_up:
        raise StackError("the stack is down, nothing to stop", hint="to start it: ./stack up")
    with exclusive(instance):
        _stop_all(chosen, supervisor, board)


def restart(instance: Instance, chosen: Sequence[Service], board: Board) -> None:
    """Stop services and start them again, and wait until each is healthy; the others go on.

    Raises:
        StackError: Nothing is running, a program does not stop, or a service did not become healthy.
    """
    supervisor = Supervisor(instance)
    if not chosen or not supervisor.is_up:
        raise StackError("the stack is down, nothing to restart", hint="to start it: ./stack up")
    with exclusive(instance):
        _stop_all(chosen, supervisor, board)
        _start_all(chosen, instance, board, threading.Event())


def not_stopped(instance: Instance) -> list[Service]:
    """Return the services that were started and not stopped on purpose since, failed ones included."""
    supervisor = Supervisor(instance)
    states = supervisor.states() if supervisor.is_up else {}
    return [
        service
        for service in services.SERVICES
        if states and not all(states[program.name].was_stopped for program in service.programs)
    ]


def reset(instance: Instance, board: Board) -> list[Path]:
    """Stop everything and delete all that any run has made, environments included: a fresh clone again.

    Args:
        instance: The instance; its settings do not matter, so broken ones go like the rest.
        board: Where progress is shown.

    Returns:
        What was deleted.

    Raises:
        StackError: A process does not end, or something could not be deleted.
    """
    with exclusive(instance):  # the lock goes with the rest, at the end
        _stop_everything(instance, board)
        for state in folders.nested(instance):
            down(replace(instance, state=state), board)
        return folders.delete_everything(instance)


def down(instance: Instance, board: Board) -> bool:
    """Stop everything, in the reverse order of needs, and verify that no process is left.

    Returns:
        Whether anything was running.

    Raises:
        StackError: A process does not end.
    """
    with exclusive(instance):
        return _stop_everything(instance, board)


def _has_ended(service: Service, supervisor: Supervisor) -> bool:
    return all(supervisor.state(program.name).has_ended for program in service.programs)


class _NeedFailedError(Exception):
    """A service was not started because one that it needs failed."""


def _start_all(chosen: Sequence[Service], instance: Instance, board: Board, cancelled: threading.Event) -> None:
    supervisor = Supervisor(instance)
    begun: dict[str, Future[None]] = {}

    def bring_up(service: Service) -> None:
        try:
            _install(service, instance, board, cancelled)
            for need in service.needs:
                if need in begun and begun[need].exception() is not None:  # waits until it is decided
                    board.report(service.name, f"not started, needs {need}")
                    raise _NeedFailedError
            _start_one(service, instance, supervisor, board, cancelled)
        except StackError:
            board.report(service.name, "failed")
            raise

    with ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        try:  # from the first thread on: a Ctrl-C between them must end those that have begun
            for service in _by_depth(chosen):  # needs first: a thread finds those it waits for in `begun`
                begun[service.name] = pool.submit(bring_up, service)
            while wait(begun.values(), timeout=_POLL).not_done:
                pass  # in short waits: a signal that reaches another thread does not end a long one here
        except KeyboardInterrupt:
            cancelled.set()
            raise
    errors = [error for future in begun.values() if (error := future.exception())]
    for error in errors:
        if not isinstance(error, _NeedFailedError):
            raise error


def _install(service: Service, instance: Instance, board: Board, cancelled: threading.Event) -> None:
    if service.venv is None or service.in_background:
        return
    environment = environments.of_service(service.venv)
    if not environments.is_current(environment, instance):
        board.report(service.name, "installing its environment")
        environments.make(environment, instance, cancelled)
        board.report(service.name, "waiting")


def _start_one(
    service: Service, instance: Instance, supervisor: Supervisor, board: Board, cancelled: threading.Event
) -> None:
    # Some may run already: an `up` that was killed had started the first, or the main one has given up alone.
    ended = [program for program in service.programs if supervisor.state(program.name).has_ended]
    if ended:
        board.report(service.name, "starting")
        if service.programs[-1] in ended:  # the main one: its data is not touched while it runs
            service.prepare(instance, cancelled)
        for program in ended:
            supervisor.start(program.name)
    if service.in_background:
        board.report(service.name, "started")
        return
    deadline = time.monotonic() + service.health_deadline
    starts: set[tuple[str, int]] = set()
    while (reason := _trouble(service, instance, supervisor)) is not None:
        states = [supervisor.state(program.name) for program in service.programs]
        starts |= {(state.name, state.started) for state in states if state.started}
        gave_up = any(state.gave_up for state in states) or len(starts) > len(states) + _RESTARTS
        if gave_up or time.monotonic() > deadline:
            what = "ends again and again" if gave_up else f"is not ready after {service.health_deadline:.0f} s"
            raise _failure(service, instance, f"{service.name} {what}: {reason}")
        if cancelled.wait(_POLL):
            raise GivenUpError
    board.report(service.name, "ready")


def _trouble(service: Service, instance: Instance, supervisor: Supervisor) -> str | None:
    """Return why a service is not ready, or None when it is."""
    for program in service.programs:
        state = supervisor.state(program.name)
        if not state.is_running:
            return state.message or f"its process is {state.state.lower()}"
    try:
        service.health(instance)
    except UnhealthyError as error:
        return str(error)
    return None


def _failure(service: Service, instance: Instance, message: str) -> StackError:
    lines = []
    for program in service.programs:
        log = instance.log(program.name)
        lines += [f"last lines of {log}:", *(f"  {line}" for line in processes.tail(log, 15))]
    lines.append(f"when it is corrected: ./stack up (the whole log: ./stack logs {service.name})")
    return StackError(message, hint="\n".join(lines))


def _stop_everything(instance: Instance, board: Board) -> bool:
    supervisor = Supervisor(instance)
    is_up = supervisor.is_up
    if is_up:
        _stop_all(services.SERVICES, supervisor, board)
        supervisor.shutdown()
    left = processes.left_behind(instance.state)
    processes.end_left_behind(instance.state, _ORPHANS)
    return is_up or bool(left)


def _stop_all(chosen: Sequence[Service], supervisor: Supervisor, board: Board) -> None:
    running = [service for service in chosen if not _has_ended(service, supervisor)]
    depths = _depths()
    for depth in sorted({depths[service.name] for service in running}, reverse=True):
        level = [service for service in running if depths[service.name] == depth]
        with ThreadPoolExecutor(max_workers=len(level)) as pool:
            for stopped in [pool.submit(_stop_one, service, supervisor, board) for service in level]:
                stopped.result()


def _stop_one(service: Service, supervisor: Supervisor, board: Board) -> None:
    board.report(service.name, "stopping")
    for program in reversed(service.programs):  # the last one is the main one: the others serve it
        supervisor.stop(program.name)
        supervisor.wait_ended(program.name, program.stop_wait + _STOP_MARGIN)
    board.report(service.name, "stopped")


def _depths() -> dict[str, int]:
    """Return for each service how many steps of needs lie below it."""
    depths: dict[str, int] = {}

    def depth(service: Service) -> int:
        if service.name not in depths:
            depths[service.name] = 1 + max((depth(need) for need in services.by_name(service.needs)), default=0)
        return depths[service.name]

    for service in services.SERVICES:
        depth(service)
    return depths


def _by_depth(chosen: Sequence[Service]) -> list[Service]:
    depths = _depths()
    return sorted(chosen, key=lambda service: depths[service.name])
