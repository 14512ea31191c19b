"""The README's "Add your own task in five minutes", done: its files saved, its diff applied, its command run."""

import re
import subprocess
from pathlib import Path

import httpx
from clone import REPOSITORY, Clone, plain_environment, wait_until


def section() -> str:
    readme = (REPOSITORY / "README.md").read_text()
    return readme.split("## Add your own task in five minutes")[1].split("\n## ")[0]


def save_files(folder: Path) -> list[str]:
    files = re.findall(r"^`([\w./-]+\.py)`\n```python\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)
    for name, content in files:
        (folder / name).write_text(content)
    return [name for name, _ in files]


def test_a_task_of_my_own(stack: Clone) -> None:
    pids = {name: stack.program(name).pid for name in (" tasks:app worker", "api:app")}
    assert len(save_files(stack.folder)) == 3
    diff = re.findall(r"^```diff\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)
    subprocess.run(["git", "apply", "-"], cwd=stack.folder, input="".join(diff), text=True, check=True)
    command = re.findall(r"^```\n(curl .*?)^```$", section(), re.DOTALL | re.MULTILINE)[0]
    command = command.replace("localhost:5000", f"127.0.0.1:{stack.ports['API_PORT']}")

    def answer() -> str:
        return subprocess.run(
            ["bash", "-c", command], env=plain_environment(), capture_output=True, text=True, check=False
        ).stdout

    wait_until(lambda: '"result":6' in answer(), 40, f"the new task answers: {answer()}")
    assert pids != {name: stack.program(name).pid for name in (" tasks:app worker", "api:app")}
    assert httpx.get(stack.url + "/openapi.json").json()["paths"]["/v1/project-worker/word-count"]


def test_broken_code_is_told_and_the_next_save_mends_it(stack: Clone) -> None:
    endpoint = stack.folder / "project-api/project-api/app/api/api_v1/endpoints/texts.py"
    good = endpoint.read_text()
    endpoint.write_text(good + "\nthis is no Python\n")
    wait_until(lambda: not stack.ready(), 20, "the API notices the broken file")
    wait_until(lambda: "SyntaxError" in stack.must("logs", "project-api"), 20, "the log tells why")
    endpoint.write_text(good)
    wait_until(stack.ready, 30, "the API is back")
