"""Which program a changed file restarts."""

from pathlib import Path

import pytest

from stack.reload import affected

ROOT = Path("/repository")
WORKER = ["project-worker-reaper", "project-worker-pickle", "project-worker"]


@pytest.mark.parametrize(
    ("changed", "programs"),
    [
        ("project-api/project-api/app/main.py", ["project-api"]),
        ("project-worker/project-worker/tasks.py", WORKER),
        ("libs/project-contracts/src/project_contracts/integers.py", [*WORKER, "project-api"]),
        ("libs/async-celery/src/async_celery/client.py", [*WORKER, "project-api"]),
        ("project-api/tests/unit/test_x.py", []),
        ("ops/stack/cli.py", []),
    ],
)
def test_a_change_restarts_what_uses_the_file(changed: str, programs: list[str]) -> None:
    assert affected([ROOT / changed], ROOT) == programs


def test_many_changes_restart_once() -> None:
    changed = [ROOT / "libs/async-celery/src/a.py", ROOT / "project-api/project-api/api.py"]
    assert affected(iter(changed), ROOT) == [*WORKER, "project-api"]
