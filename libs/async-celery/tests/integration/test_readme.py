"""The README's example is run as it stands, but for the addresses."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import KEY, Address

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.usefixtures("worker")
async def test_the_readmes_example_runs(broker: Address, backend: Address, queue: str) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    example = found[1].replace("amqp://…", broker.url()).replace("redis://…", backend.url())
    example = example.replace('queue="sums"', f'queue="{queue}"')
    names: dict[str, Any] = {"key": KEY}
    code = compile(example, README, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, names)  # noqa: S307 (our own text)
    assert names["total"] == 3
    assert names["sums"] == [0, 2, 4]
    assert names["status"].result == [0, 2, 4]
