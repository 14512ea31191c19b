"""Task ids that speak for themselves: who made them, when, and that it was us.

How it works: an id is a UUIDv8 (RFC 9562 §5.8). Of its 122 free bits, from the left: 32 process prefix (the first
8 hex digits: one subscription per process can serve all its waiters), 32 seconds since 1970, 18 counter, 40 MAC
(keyed BLAKE2b, RFC 7693, over the other 82). So an id tells, without asking anybody, whether we issued
it and whether its deadline has passed: the difference between "queued", "expired" and "never heard of it". Canvas
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
from uuid import RFC_4122, UUID

_SECONDS_BITS, _COUNTER_BITS, _MAC_BITS = 32, 18, 40
_IDS_PER_SECOND = 1 << _COUNTER_BITS
_MAC_BYTES = _MAC_BITS // 8
_IDS_PER_BLOCK = 8
_BLOCKS_PER_SECOND, _BLOCKS_PER_BYTE = _IDS_PER_SECOND // _IDS_PER_BLOCK, 256 // _IDS_PER_BLOCK
_MOST_BLOCKS_AT_ONCE = 8
_CHILDREN_PER_BLOCK = 64
# In the middle of each: which bits are random; version 4, and the variant of the RFC.
_RANDOM_OF_CHILDREN = int("ffff0fff3fff" * _CHILDREN_PER_BLOCK, 16)
_VERSION_OF_CHILDREN = int("000040008000" * _CHILDREN_PER_BLOCK, 16)
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
        # A key of BLAKE2b has 64 bytes at most.
        self._keyed = hashlib.blake2b(key=hashlib.sha512(key).digest(), digest_size=_IDS_PER_BLOCK * _MAC_BYTES)
        self._restart()
        _instances.add(self)

    def _restart(self) -> None:
        """Begin anew for this process. The lock too: a fork may copy it while another thread holds it."""
        self._lock = threading.Lock()
        self._prefix = secrets.randbits(32)
        self._block = secrets.randbits(_COUNTER_BITS) // _IDS_PER_BLOCK
        self._second, self._blocks_left = -1, 0
        self._blocks_at_once = 1
        self._ready: list[str] = []
        self._ready_children: list[str] = []

    def new(self, now: float | None = None) -> str:
        """Return a new id, different from every other of this process.

        Args:
            now: seconds since 1970; the clock's when None.
        """
        second = int(time.time() if now is None else now)
        # Ids are made in blocks, and taken without the lock: `pop` is atomic.
        while True:
            if second <= self._second:
                try:
                    return self._ready.pop()
                except IndexError:
                    pass
            with self._lock:
                if second > self._second or not self._ready:
                    self._make_ready(second)

    def _make_ready(self, second: int) -> None:
        """Make the next ids: the more at once, the faster they are taken. Their second never goes back."""
        if second > self._second:
            self._second, self._blocks_left, self._blocks_at_once = second, _BLOCKS_PER_SECOND, 1
        else:
            self._blocks_at_once = min(2 * self._blocks_at_once, _MOST_BLOCKS_AT_ONCE)
        if not self._blocks_left:
            # All counter values of this second are spent.
            self._second, self._blocks_left = self._second + 1, _BLOCKS_PER_SECOND
        # Only blocks that differ in nothing but the counter's low byte.
        block = self._block % _BLOCKS_PER_SECOND
        blocks = min(self._blocks_at_once, self._blocks_left, _BLOCKS_PER_BYTE - block % _BLOCKS_PER_BYTE)
        self._blocks_left -= blocks
        self._block = block + blocks
        second, counter, count = self._second & 0xFFFF_FFFF, block * _IDS_PER_BLOCK, blocks * _IDS_PER_BLOCK
        # Variant, the rest of the second, and the counter but for its low byte.
        middle = 0b10 << 14 | (second & 0xF) << 10 | counter >> 8
        same = f"{self._prefix:08x}-{second >> 16:04x}-8{second >> 4 & 0xFFF:03x}-{middle:04x}-"
        first = self._prefix << _SECONDS_BITS | second
        macs = b"".join([self._macs_of(first, block + number) for number in range(blocks)])
        # The last group of each: that byte, and the MAC. All at once, and as text: one by one they would cost
        # half as much again, and objects of class UUID several times as much.
        low = counter & 0xFF
        ends = bytearray(count * (1 + _MAC_BYTES))
        ends[:: 1 + _MAC_BYTES] = bytes(range(low, low + count))
        for place in range(_MAC_BYTES):
            ends[1 + place :: 1 + _MAC_BYTES] = macs[place::_MAC_BYTES]
        ready = [same + end for end in ends.hex("-", 1 + _MAC_BYTES).split("-")]
        ready.reverse()
        self._ready = ready

    @property
    def prefix(self) -> str:
        """The first 8 hex digits of every id that this process makes."""
        return f"{self._prefix:08x}"

    def child(self) -> str:
        """Return a new id for a member of a workflow: random, with this process's prefix. `parse` refuses it."""
        while True:
            try:
                return self._ready_children.pop()
            except IndexError:
                self._ready_children = self._block_of_children()

    def _block_of_children(self) -> list[str]:
        """Return uuid4s (RFC 9562 §5.4), written here in an eighth of the time."""
        # Groups 2 to 4 of all of them, with the dashes between; then group 5.
        drawn = int.from_bytes(os.urandom(6 * _CHILDREN_PER_BLOCK)) & _RANDOM_OF_CHILDREN | _VERSION_OF_CHILDREN
        middles = drawn.to_bytes(6 * _CHILDREN_PER_BLOCK).hex("-", 2)
        ends = os.urandom(6 * _CHILDREN_PER_BLOCK).hex()
        same = f"{self._prefix:08x}-"
        return [
            f"{same}{middles[15 * n : 15 * n + 14]}-{ends[12 * n : 12 * n + 12]}"
            for n in range(_CHILDREN_PER_BLOCK)
        ]

    def parse(self, task_id: str) -> IssuedId | None:
        """Return what the id says, or None when it is none of ours (wrong MAC, version, variant or spelling)."""
        try:
            uuid = UUID(task_id)
        except ValueError:
            return None
        # Results are stored under the id as text, so only its one canonical spelling names the task.
        if str(uuid) != task_id or uuid.version != 8 or uuid.variant != RFC_4122:
            return None
        # The 122 bits around version and variant.
        bits = uuid.int
        custom = (bits >> 80) << 74 | (bits >> 64 & 0xFFF) << 62 | bits & (1 << 62) - 1
        fields = custom >> _MAC_BITS
        counter, first = fields & _IDS_PER_SECOND - 1, fields >> _COUNTER_BITS
        block, place = divmod(counter, _IDS_PER_BLOCK)
        mac = self._macs_of(first, block)[place * _MAC_BYTES :][:_MAC_BYTES]
        if not hmac.compare_digest(mac, uuid.bytes[-_MAC_BYTES:]):
            return None
        return IssuedId(prefix=task_id[:8], issued_at=datetime.fromtimestamp(first & 0xFFFF_FFFF, UTC))

    def _macs_of(self, first: int, block: int) -> bytes:
        """Return the MACs of a block of ids, one after the other: neighbours, with the same prefix and second.

        One digest is cut into theirs: of a pseudorandom function of (block, place in it), as good as a digest
        each, at a fraction of the cost.
        """
        digest = self._keyed.copy()
        digest.update(first.to_bytes(8) + block.to_bytes(3))
        return digest.digest()


_instances: weakref.WeakSet[TaskIds] = weakref.WeakSet()


def _restart_all() -> None:
    for ids in _instances:
        ids._restart()


# A child of a fork would go on with its parent's prefix and counter, and repeat its parent's ids.
os.register_at_fork(after_in_child=_restart_all)
