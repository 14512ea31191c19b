"""What an Idempotency-Key is compared by, and how it can be refused, wherever its answers are kept.

How it works: `POST`s that create are repeated safely under a key of the client's
(draft-ietf-httpapi-idempotency-key-header). The first request with a key does the work, the others get its
answer. They must be the same request: its `Fingerprint` is kept beside the key. Tasks, workflows and imports keep
their keys in Redis (`app/celery/idempotency.py`), rows in PostgreSQL (`app/database/idempotency.py`).

What belongs here: what both have in common.
"""

import hashlib

LIFETIME = 24 * 60 * 60
"""For how long a key is known, in s after its first request."""


class Fingerprint:
    """SHA-256 of a request, taken while its body comes in.

    What counts are the method, the target and the body's bytes, and of a file its media type: a body that means
    the same and is written otherwise is another one. Other headers do not count, so a repeat may `Prefer` another
    way of being answered.
    """

    def __init__(self, method: str, target: str) -> None:
        """Begin.

        Args:
            method: of the request.
            target: path and query.
        """
        self._hash = hashlib.sha256(f"{method} {target}\n".encode())

    def update(self, chunk: bytes) -> None:
        """Add the next piece of the body."""
        self._hash.update(chunk)

    def digest(self) -> bytes:
        """Return what it is so far: 32 bytes."""
        return self._hash.digest()


class BadIdempotencyKeyError(ValueError):
    """The header is no key."""


class KeyReusedError(Exception):
    """The key was sent before, with another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key belongs to another request: make a new key for each new request")


class KeyInProgressError(Exception):
    """The first request with the key has not been answered yet."""

    def __init__(self) -> None:
        super().__init__("the first request with this Idempotency-Key is still in progress: send it again later")
