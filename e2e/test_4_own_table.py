"""docs/how-to/add-a-table.md, done: its files saved, its commands run, its endpoints asked."""

import re
import shlex
import subprocess

import httpx
from clone import REPOSITORY, Clone, plain_environment

GUIDE = (REPOSITORY / "docs" / "how-to" / "add-a-table.md").read_text()


def test_a_table_of_my_own(stack: Clone, http: httpx.Client) -> None:
    files = re.findall(r"^`([\w./-]+\.py)`\n```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    shells = re.findall(r"^```\n((?:cd |curl ).*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(files) == 3
    assert len(shells) == 2
    table, *others = files
    with stack.stopped("reload"):  # the restart is this test's own, once for all files
        with (stack.folder / table[0]).open("a") as tables:
            tables.write(table[1])
        migrating = subprocess.run(
            ["bash", "-e", "-c", shells[0]],
            cwd=stack.folder,
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert migrating.returncode == 0, migrating.stdout
        for name, content in others:
            (stack.folder / name).write_text(content)
        routers = stack.folder / "project-api/project-api/app/api/api_v1/api.py"
        text = routers.read_text().replace("    imports,\n", "    imports,\n    landmarks,\n")
        routers.write_text(text.replace("    imports.router,\n", "    imports.router,\n    landmarks.router,\n"))
        stack.must("restart", "project-api", "project-worker")
    port = stack.ports["API_PORT"]
    created, listed = (
        subprocess.run(
            shlex.split(command.replace("localhost:5000", f"127.0.0.1:{port}")),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for command in shells[1].splitlines()
    )
    assert '"name":"Frauenkirche"' in created
    assert listed == f"[{created}]"
    nowhere = http.post("/v1/landmarks", json={"name": "Nothing", "city_id": 1})
    assert nowhere.status_code == 409, nowhere.text
