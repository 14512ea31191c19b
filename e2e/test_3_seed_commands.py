"""The seed's own commands, word for word, in a plain shell beside a running stack."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from clone import MULTIPLY, Clone, free_ports, plain_environment, wait_until

UVICORN = "uvicorn api:app --host 0.0.0.0 --port 5000 --workers 1 --reload"
CELERY = "celery -A tasks:app worker --pool prefork -Q project-worker --concurrency=1 -n worker@%h"


@contextmanager
def shell(script: str, folder: Path, log: Path) -> Iterator[None]:
    """Run a script in a plain shell until the block ends; nothing but PATH and HOME is known to it."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=plain_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def install(stack: Clone, project: str, environment: Path) -> "subprocess.Popen[bytes]":
    """`pip install -r requirements.txt` in a new virtual environment, in the background; its log lies beside."""
    python = shutil.which("python3.11") or "python3"
    script = (
        f"{python} -m venv {environment} && . {environment}/bin/activate && pip install -q -r requirements.txt"
    )
    with environment.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            ["bash", "-c", script], cwd=stack.folder / project, env=plain_environment(), stdout=log, stderr=log
        )


def port_is_free(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}", timeout=1)
    except httpx.ConnectError:
        return True
    return False


def test_the_seeds_commands(stack: Clone, tmp_path: Path) -> None:
    installs = {name: install(stack, name, tmp_path / name) for name in ("project-api", "project-worker")}
    assert {name: process.wait(240) for name, process in installs.items()} == dict.fromkeys(installs, 0)

    # Port 5000 belongs to a live stack where there is one; then, and only then, another is taken.
    port = 5000 if port_is_free(5000) else free_ports(1)[0]
    uvicorn = UVICORN.replace("5000", str(port))
    api, worker = stack.folder / "project-api/project-api", stack.folder / "project-worker/project-worker"
    with (
        stack.stopped("project-api", "project-worker"),
        shell(f". {tmp_path}/project-api/bin/activate; {uvicorn}", api, tmp_path / "api.log"),
        shell(f". {tmp_path}/project-worker/bin/activate; {CELERY}", worker, tmp_path / "worker.log"),
    ):
        wait_until(lambda: not port_is_free(port), 30, f"uvicorn answers: {(tmp_path / 'api.log').read_text()}")
        answer = httpx.post(
            f"http://127.0.0.1:{port}{MULTIPLY}", json={"multiplicand": 6, "multiplier": 7},
            headers={"Prefer": "wait=30"}, timeout=60,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text + (tmp_path / "worker.log").read_text()
        assert answer.json()["result"] == 42
        information = httpx.post(f"http://127.0.0.1:{port}/v1/project-worker/worker-information", timeout=30)
        assert "SUCCESS" in information.text
    assert stack.multiply(6, 7).json()["result"] == 42
