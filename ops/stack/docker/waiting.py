"""Running Compose and showing a line per service meanwhile, until all are well.

How it works: Compose works in the background and writes to `logs/compose.log`; several times a second it is asked
how the containers are. Compose itself waits only for services that others need: this waits for every one. A
service that Docker gives up, finds unhealthy, or starts again and again, ends the wait, with its last lines.

What belongs here: waiting. What is started is `stack.py`'s business.
"""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from stack.docker import troubles
from stack.docker.compose import Compose, end, refused
from stack.docker.containers import Container, Verdict, verdict
from stack.docker.model import Declared
from stack.errors import StackError
from stack.processes import tail
from stack.progress import Board

_POLL = 0.3  # s
_LAST_LINES = 15
_CRASHES = (
    20.0  # s between the first end of a service and giving up: Docker starts it again after 0.1, 0.2, 0.4 …
)
_UNHEALTHY = 60.0  # s; a busy machine lets health checks fail that succeed a little later
_AFTER_COMPOSE = 300.0  # s; Kibana's first start takes minutes
_KILLED = 137

_COMPLAINT = re.compile(r"Error|unhealthy|exited|failed|didn't complete")
_BAD = {Verdict.UNHEALTHY: "is unhealthy", Verdict.FAILED: "failed"}
_WORDS = {Verdict.ABSENT: "waiting"}
_FETCHED = {"Pulling": "fetching its image", "Building": "building its image"}


class Run:
    """One call of Compose that changes containers, and the services that it is about."""

    def __init__(self, compose: Compose, declared: Sequence[Declared], log: Path, board: Board) -> None:
        self._compose = compose
        self._declared = declared
        self._log = log
        self._board = board
        self._process: subprocess.Popen[bytes] | None = None
        self._start = 0
        self._crashing: dict[str, float] = {}
        self._unhealthy: dict[str, float] = {}

    def until_well(self, *words: str) -> None:
        """Run Compose with these words, and wait until every service is ready or done.

        Raises:
            StackError: A service does not get there, or Compose fails; has its last lines and what to do.
            KeyboardInterrupt: The user gave up; Compose has been ended.
        """
        deadline: float | None = None
        with self._running(words) as process:
            while True:
                ended = process.poll()
                containers = [Container.of(said) for said in self._compose.containers()]
                verdicts = {service.name: verdict(service, containers) for service in self._declared}
                self._show(verdicts, has_ended=ended is not None)
                self._require_hope(verdicts, containers, has_ended=ended is not None)
                if ended:
                    raise self._failure(verdicts, containers)
                if ended == 0 and all(one.is_well for one in verdicts.values()):
                    return
                if ended == 0:
                    deadline = deadline or time.monotonic() + _AFTER_COMPOSE
                    if time.monotonic() > deadline:
                        raise self._failure(verdicts, containers)
                time.sleep(_POLL)

    def until_ended(self, *words: str) -> None:
        """Run Compose with these words, which stop services, and wait for it.

        Raises:
            StackError: Compose fails.
        """
        with self._running(words) as process:
            while process.poll() is None:
                there = {said["Service"] for said in self._compose.containers() if said["State"] == "running"}
                for service in self._declared:
                    self._board.report(service.name, "stopping" if service.name in there else "stopped")
                time.sleep(_POLL)
        if process.returncode:
            raise refused("\n".join(self.said()))
        for service in self._declared:
            self._board.report(service.name, "stopped")

    @contextmanager
    def _running(self, words: Sequence[str]) -> "Iterator[subprocess.Popen[bytes]]":
        self._start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as output:
            self._process = self._compose.begin(words, output)
        try:
            yield self._process
        finally:
            if self._process.poll() is None:
                end(self._process)

    def _show(self, verdicts: Mapping[str, Verdict], *, has_ended: bool) -> None:
        said = "\n".join(self.said())
        for service in self._declared:
            one = verdicts[service.name]
            # What an earlier run has left ended, Compose comes to when that service's turn is.
            left = one in (Verdict.FAILED, Verdict.STOPPED) and not has_ended
            word = "waiting" if left else _WORDS.get(one, one.value)
            if one is Verdict.ABSENT:
                what = re.findall(
                    rf"(?:^|\s)(?:{re.escape(service.image)}|{service.name}) (Pulling|Building)\b", said
                )
                word = _FETCHED[what[-1]] if what else word
            self._board.report(service.name, word)

    def _require_hope(
        self, verdicts: Mapping[str, Verdict], containers: Sequence[Container], *, has_ended: bool
    ) -> None:
        """Raise when a service will not get well by itself."""
        now = time.monotonic()
        for name, one in verdicts.items():
            if one is Verdict.CRASHING:
                self._crashing.setdefault(name, now)
            elif one.is_well:
                self._crashing.pop(name, None)
            # As long as Compose works, an earlier run's unhealthy service may be replaced.
            if one is Verdict.UNHEALTHY and has_ended:
                self._unhealthy.setdefault(name, now)
            else:
                self._unhealthy.pop(name, None)
        if (
            (has_ended and Verdict.FAILED in verdicts.values())
            or any(now - begin > _CRASHES for begin in self._crashing.values())
            or any(now - begin > _UNHEALTHY for begin in self._unhealthy.values())
        ):
            raise self._failure(verdicts, containers)

    def _failure(self, verdicts: Mapping[str, Verdict], containers: Sequence[Container]) -> StackError:
        said = self.said()
        bad = [name for name, one in verdicts.items() if one.is_bad or name in self._crashing]
        slow = [name for name, one in verdicts.items() if not one.is_bad and not one.is_well]
        if self._process is not None and self._process.poll():
            # What it complains of; others may be as an earlier run has left them, or wait in vain.
            complaints = "\n".join(line for line in said if _COMPLAINT.search(line))
            bad = [name for name in bad if re.search(rf'-{name}-\d+\b|"{name}"', complaints)]
            slow = []
        # Needs come first in the model: the first bad one is the cause, as a rule, and others wait for it.
        names = (bad or slow)[:1]
        if not names:
            hint = [*said[-_LAST_LINES:], *troubles.advice(said), f"all that Compose said: {self._log}"]
            return StackError("Docker Compose could not start the services", hint="\n".join(hint))
        name = names[0]
        self._board.report(name, "failed")
        lines = last_lines(self._compose, name)
        status = next((c.status for c in containers if c.service == name), "it has no container")
        codes = {c.exit_code for c in containers if c.service == name}
        known = troubles.advice([*lines, *said, status])
        if _KILLED in codes and troubles.MEMORY not in known:
            known.append(troubles.MEMORY)
        what = Verdict.CRASHING.value if name in self._crashing else _BAD.get(verdicts[name], "is not ready")
        hint = [f"last lines of {name}:", *(f"  {line}" for line in lines), *known]
        hint.append(f"when it is corrected: ./stack up --docker (the whole log: ./stack logs {name})")
        return StackError(f"{name} {what}: {status}", hint="\n".join(hint))

    def said(self) -> list[str]:
        """Return the last that Compose has said in this call."""
        return tail(self._log, 100, start=self._start)


def last_lines(compose: Compose, service: str) -> list[str]:
    """Return what a service printed last."""
    said = compose.ask("logs", "--no-color", "--no-log-prefix", "--tail", str(_LAST_LINES), service)
    return said.splitlines() or ["(it printed nothing)"]
