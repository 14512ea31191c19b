"""Task ids that speak for themselves: who made them, when, and that it was us.

How it works: an id is a UUIDv8 (RFC 9562 §5.8). Of its 122 free bits, from the left: 32 process prefix (the first
8 hex digits: one subscription per process can serve all its waiters), 32 seconds since 1970, 18 counter, 40 MAC
(BLAKE2s, keyed, of 5 bytes, over the other 82: RFC 7693). So an id tells, without asking anybody, whether we issued it and
whether its deadline has passed: the difference between "queued", "expired" and "never heard of it". Canvas
children (`child`) are random uuid4s behind the same prefix: one subscription serves them too, and their
workflow's record names them.

A guess passes the MAC once in 2^40 tries, and then learns only that an id might be queued: the MAC tells ids
apart, it is no permission to read a result.

What belongs here: making and reading ids. What an id means for a task's state is `status.py`'s.
"""

import hashlib
import hmac
import os
import secrets
import threading
import time
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import RFC_4122, UUID, uuid4

_SECONDS_BITS, _COUNTER_BITS, _MAC_BITS = 32, 18, 40
_IDS_PER_SECOND = 1 << _COUNTER_BITS
_MIN_KEY_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class IssuedId:
    """What an id of ours says; `issued_at` in whole seconds, UTC."""

    prefix: str
    issued_at: datetime


class TaskIds:
    """Makes and recognises ids. Thread-safe; safe across a fork.

    All replicas of a service share the key, and it survives restarts: else ids accepted by one are unknown to
    the next.
    """

    def __init__(self, key: bytes) -> None:
        """Take the MAC key.

        Raises:
            ValueError: the key is shorter than 16 bytes.
        """
        if len(key) < _MIN_KEY_BYTES:
            raise ValueError(f"task_id_key must have at least {_MIN_KEY_BYTES} bytes, this one has {len(key)}")
        # Keyed once: copying this state is a fifth of what a new HMAC costs. A key of BLAKE2s has 32 bytes at most.
        self._keyed = hashlib.blake2s(key=hashlib.sha256(key).digest(), digest_size=_MAC_BITS // 8)
        self._restart()
        _instances.add(self)

    def _restart(self) -> None:
        """Begin anew for this process. The lock too: a fork may copy it while another thread holds it."""
        self._lock = threading.Lock()
        self._prefix = secrets.randbits(32)
        self._counter = secrets.randbits(_COUNTER_BITS)
        self._begin_second(0)

    def _begin_second(self, second: int) -> None:
        """Make what is the same in all ids of a second: their first 66 bits."""
        self._second, self._made_in_second = second, 0
        second &= 0xFFFF_FFFF
        self._head = f"{self._prefix:08x}-{second >> 16:04x}-8{second >> 4 & 0xFFF:03x}-"
        self._tail = 0b10 << 62 | (second & 0xF) << _COUNTER_BITS + _MAC_BITS
        self._keyed_head = self._keyed.copy()
        self._keyed_head.update(self._prefix.to_bytes(4) + second.to_bytes(4))

    def new(self, now: float | None = None) -> str:
        """Return a new id, different from every other of this process.

        Args:
            now: seconds since 1970; the clock's when None.
        """
        second = int(time.time() if now is None else now)
        with self._lock:
            if second > self._second:
                self._begin_second(second)
            elif self._made_in_second == _IDS_PER_SECOND:
                # All counter values of this second are spent. The second also never goes back with the clock.
                self._begin_second(self._second + 1)
            self._made_in_second += 1
            self._counter = counter = (self._counter + 1) % _IDS_PER_SECOND
            head, tail, mac = self._head, self._tail, self._keyed_head.copy()
        mac.update(counter.to_bytes(3))
        # As text at once: an object of class UUID would cost as much again.
        digits = f"{tail | counter << _MAC_BITS | int.from_bytes(mac.digest()):016x}"
        return f"{head}{digits[:4]}-{digits[4:]}"

    @property
    def prefix(self) -> str:
        """The first 8 hex digits of every id that this process makes."""
        return f"{self._prefix:08x}"

    def child(self) -> str:
        """Return a new id for a member of a workflow: random, with this process's prefix. `parse` refuses it."""
        return self.prefix + str(uuid4())[8:]

    def parse(self, task_id: str) -> IssuedId | None:
        """Return what the id says, or None when it is none of ours (wrong MAC, version, variant or spelling)."""
        try:
            uuid = UUID(task_id)
        except ValueError:
            return None
        # Results are stored under the id as text, so only its one canonical spelling names the task.
        if str(uuid) != task_id or uuid.version != 8 or uuid.variant != RFC_4122:  # noqa: PLR2004 (RFC 9562 §5.8)
            return None
        # The 122 bits around version and variant.
        bits = uuid.int
        custom = (bits >> 80) << 74 | (bits >> 64 & 0xFFF) << 62 | bits & (1 << 62) - 1
        fields, claimed = custom >> _MAC_BITS, custom & (1 << _MAC_BITS) - 1
        counter, first = fields & _IDS_PER_SECOND - 1, fields >> _COUNTER_BITS
        mac = self._keyed.copy()
        mac.update(first.to_bytes(8) + counter.to_bytes(3))
        if not hmac.compare_digest(mac.digest(), claimed.to_bytes(_MAC_BITS // 8)):
            return None
        return IssuedId(prefix=task_id[:8], issued_at=datetime.fromtimestamp(first & 0xFFFF_FFFF, UTC))


_instances: weakref.WeakSet[TaskIds] = weakref.WeakSet()


def _restart_all() -> None:
    for ids in _instances:
        ids._restart()


# A child of a fork would go on with its parent's prefix and counter, and repeat its parent's ids.
os.register_at_fork(after_in_child=_restart_all)
