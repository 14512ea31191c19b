"""One clone for all end-to-end tests: brought up once, taken down at the end, whatever happened.

The files are numbered: the first minutes come first, bad days last.
"""

from collections.abc import Iterator

import httpx
import pytest
from clone import Clone


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    made = Clone(tmp_path_factory.mktemp("clone"))
    try:
        yield made
    finally:
        made.stack("down")


@pytest.fixture(scope="session")
def first_up(clone: Clone) -> str:
    """What the first `./stack up` printed."""
    return clone.must("up")


@pytest.fixture
def stack(clone: Clone, first_up: str) -> Clone:
    """The clone, up."""
    return clone


@pytest.fixture
def http(stack: Clone) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client
