"""A virtual host of RabbitMQ of a test's own: queues that no other worker consumes."""

import contextlib
import os
import uuid
from collections.abc import Iterator

import httpx


def management() -> httpx.Client:
    """The broker's management API."""
    env = os.environ
    return httpx.Client(
        base_url=f"http://{env['RABBITMQ_HOST']}:{env['RABBITMQ_MANAGEMENT_PORT']}/api",
        auth=(env["RABBITMQ_USER"], env["RABBITMQ_PASSWORD"]),
        timeout=30,
    )


@contextlib.contextmanager
def own_virtual_host(whose: str) -> Iterator[str]:
    """Make one whose name begins so, with all rights for the session's user, and delete it in the end."""
    name = f"{whose}-{uuid.uuid4()}"
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    with management() as broker:
        broker.put(f"/vhosts/{name}").raise_for_status()
        try:
            broker.put(f"/permissions/{name}/{os.environ['RABBITMQ_USER']}", json=rights).raise_for_status()
            yield name
        finally:
            broker.delete(f"/vhosts/{name}").raise_for_status()
