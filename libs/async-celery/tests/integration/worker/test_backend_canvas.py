"""A canvas does the same on this package's worker as on Celery's own.

How it works: the shapes of `test_canvas_equals_celery.py`, run here by a worker that `install` was called for,
and by the session's plain one; the former's are sent by our client, the latter's by Celery's.

What belongs here: that comparison.
"""

from collections.abc import Iterator

import pytest

from ..conftest import Address, running_worker, temporary_queue
from ..test_canvas_equals_celery import DIFFERENCES, SHAPES, Sides

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture(scope="module")
def plain(broker: Address, backend: Address, queue: str) -> Iterator[Sides]:
    sides = Sides(broker.url(), backend.url(), queue)
    yield sides
    sides.close()


@pytest.fixture(scope="module")
def reliable(broker: Address, backend: Address, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    with temporary_queue(broker, "async-celery-reliable") as queue, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPLE_RELIABLE", "1")
        urls = {"broker_url": broker.url(), "backend_url": backend.url()}
        with running_worker(tmp_path_factory.mktemp("reliable"), **urls, queue=queue, processes=2):
            sides = Sides(broker.url(), backend.url(), queue)
            yield sides
            sides.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(plain: Sides, reliable: Sides, shape: str) -> None:
    build = SHAPES[shape]
    assert reliable.ours(build(reliable)) == plain.celerys(build(plain))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_these(reliable: Sides, name: str) -> None:
    build, ours, _, _ = DIFFERENCES[name]
    assert reliable.ours(build(reliable)) == ours
