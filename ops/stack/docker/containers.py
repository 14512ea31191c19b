"""What runs now, service by service, in a few words.

How it works: Compose tells of each container its state, its health and its exit code. A one-shot that has
succeeded is done; any other service that ended was stopped, as Docker starts what crashes again by itself.

What belongs here: reading what Compose says of containers. No call of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stack.docker.model import Declared


class Verdict(Enum):
    """How a service is."""

    ABSENT = "absent"
    """No container was made."""
    WAITING = "waiting"
    """Made, and not started yet: it waits for what it needs."""
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    """A one-shot that has succeeded."""
    STOPPED = "stopped"
    UNHEALTHY = "unhealthy"
    CRASHING = "ends again and again"
    FAILED = "failed"
    """A one-shot that has not succeeded, or a container that Docker gave up."""

    @property
    def is_well(self) -> bool:
        """Whether nothing is to be waited for or mended."""
        return self in (Verdict.READY, Verdict.DONE)

    @property
    def is_bad(self) -> bool:
        """Whether somebody must look at it."""
        return self in (Verdict.UNHEALTHY, Verdict.CRASHING, Verdict.FAILED)


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container; `status` is Docker's own words, as in `Up 4 minutes (healthy)`."""

    service: str
    name: str
    state: str
    health: str
    exit_code: int
    status: str
    ports: tuple[int, ...]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Container":
        """Return what Compose's `ps` says of one."""
        numbers = {port["PublishedPort"] for port in said.get("Publishers") or () if port["PublishedPort"]}
        return cls(
            service=said["Service"],
            name=said["Name"],
            state=said["State"],
            health=said["Health"],
            exit_code=said["ExitCode"],
            status=said["Status"],
            ports=tuple(sorted(numbers)),
        )

    def verdict(self, *, is_one_shot: bool) -> Verdict:
        """Say how it is."""
        if self.state == "created":
            return Verdict.WAITING
        if self.state == "restarting":
            return Verdict.CRASHING
        if self.state in ("exited", "dead", "removing"):
            if is_one_shot:
                return Verdict.FAILED if self.exit_code else Verdict.DONE
            return Verdict.FAILED if self.state == "dead" else Verdict.STOPPED
        if self.health == "unhealthy":
            return Verdict.UNHEALTHY
        if is_one_shot or self.health == "starting" or self.state == "paused":
            return Verdict.STARTING
        return Verdict.READY


_WORST_FIRST = (
    Verdict.FAILED,
    Verdict.CRASHING,
    Verdict.UNHEALTHY,
    Verdict.WAITING,
    Verdict.STARTING,
    Verdict.STOPPED,
    Verdict.DONE,
    Verdict.READY,
)


def verdict(declared: Declared, containers: Iterable[Container]) -> Verdict:
    """Say how a service is: as the container that is least well."""
    ours = [c.verdict(is_one_shot=declared.is_one_shot) for c in containers if c.service == declared.name]
    return min(ours, key=_WORST_FIRST.index, default=Verdict.ABSENT)
