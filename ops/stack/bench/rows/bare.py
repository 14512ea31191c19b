"""The bare application: FastAPI on asyncpg, without our code; what two rows compare the product with.

What belongs here: starting it, and what it must know of the product to give the same answers.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stack import ports
from stack.bench.contenders import BARE
from stack.bench.lab import Lab

_FINGERPRINT = 8  # bytes, as in app/database/keyset.py


@contextmanager
def bare(lab: Lab, database: str) -> Iterator[int]:
    """Run it on a database; yields its port when it listens."""
    (port,) = ports.pick_free(1)
    with lab.start(BARE, "http", port=port, database=lab.database.url(database)) as running:
        lab.wait(lambda: ports.is_busy(port), running)
        yield port


def fingerprint(cursor: str) -> bytes:
    """Return what stands in a cursor of the product before the place: the list's fingerprint."""
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))[:_FINGERPRINT]


def write_cursor(listed: bytes, place: Sequence[object]) -> str:
    """Return the product's cursor of a place in the list with the fingerprint `listed`."""
    return base64.urlsafe_b64encode(listed + json.dumps(place).encode()).rstrip(b"=").decode()
