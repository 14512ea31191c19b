"""What was pushed lately: the last results, kept for those who begin to wait after they have come.

How it works: everything that is pushed is counted, and the latest payload of each task is kept until newer ones
need its room. A mark is the count at one moment. As long as nothing that came after a mark has been dropped, what
is kept tells all there is to know of a task that was sent after it: its result, or that none was pushed. So what
a sender has to keep is one number, that costs nothing to make or to drop, and holds for any number of tasks.

What belongs here: keeping and dropping. Who listens, and who waits, is `push.py`'s.
"""

from collections import OrderedDict

# As many as 10,000 small results.
_ROOM = 4 * 1024 * 1024  # bytes
# What one takes besides its payload, about.
_OVERHEAD = 200  # bytes
# A larger one would drive out too many others; it is read when it is wanted.
_LARGEST = 64 * 1024  # bytes


class Heard:
    """The latest payloads, in the order in which they came.

    Attributes: `mark`, how many have come until now.
    """

    def __init__(self, *, room: int = _ROOM) -> None:
        """Begin with nothing.

        Args:
            room: in bytes, for all that is kept.
        """
        self.mark = 0
        self._unknown_until = 0  # the mark up to which something may have been missed, or was dropped
        self._room = room
        self._kept: OrderedDict[str, tuple[int, bytes]] = OrderedDict()

    def note(self, task_id: str, payload: bytes) -> None:
        """Take note of what was pushed for a task."""
        self.mark += 1
        if len(payload) > _LARGEST:
            payload = b""
        earlier = self._kept.pop(task_id, None)
        if earlier is not None:
            self._room += _OVERHEAD + len(earlier[1])
        self._kept[task_id] = self.mark, payload
        self._room -= _OVERHEAD + len(payload)
        while self._room < 0:
            _, (self._unknown_until, dropped) = self._kept.popitem(last=False)
            self._room += _OVERHEAD + len(dropped)

    def miss(self) -> None:
        """Take note that something may have been missed."""
        self.mark += 1
        self._unknown_until = self.mark

    def knows_since(self, mark: int) -> bool:
        """Return whether all that came after a mark is known."""
        return mark >= self._unknown_until

    def latest(self, task_id: str) -> bytes | None:
        """Return what was pushed last for a task, empty when it was too large to be kept, None for nothing."""
        kept = self._kept.get(task_id)
        return None if kept is None else kept[1]
