"""docs/how-to/find-out-what-happened-to-a-task.md, done: its commands run, about a chain of three tasks."""

import json
import re
import subprocess
import uuid
from pathlib import Path

import httpx
from clone import REPOSITORY, Clone, plain_environment, wait_until

GUIDE = (REPOSITORY / "docs" / "how-to" / "find-out-what-happened-to-a-task.md").read_text()
FIRST, *OTHERS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def shell(stack: Clone, task_id: str, commands: str) -> str:
    """Run what the guide says, after what it says to do first."""
    done = subprocess.run(
        ["bash", "-eu", "-c", FIRST.replace("ID=…", f"ID={task_id}") + commands],
        cwd=stack.folder,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_happened_to_one_task(stack: Clone, http: httpx.Client) -> None:
    answer = http.post("/v1/workflows/chain", json={"integer": 2, "n": 3})
    assert answer.status_code == 200, answer.text
    task_id, request_id = answer.json()["id"], answer.headers["X-Request-ID"]
    wait_until(
        lambda: stack.stack("logs", "--request", request_id).stdout.count(" succeeded in ") == 3,
        30,
        "the lines of the three tasks are there",
    )
    where, said, together, dead, ended = (shell(stack, task_id, commands) for commands in OTHERS)

    status, timeline = map(json.loads, where.replace("}{", "}\n{").splitlines())
    assert (status["status"], status["result"]) == ("SUCCESS", 8)
    assert {step["step"] for step in timeline["steps"]} >= {"accepted", "published", "started", "finished"}

    lines = [line.split(" | ", 1) for line in said.splitlines()]
    assert [program for program, _ in lines if program.strip() not in ("project-api", "project-worker")] == []
    times = [text[:23] for _, text in lines]
    assert times == sorted(times)
    texts = "\n".join(text for _, text in lines)
    assert re.search(
        rf"\[{request_id}\] POST /v1/workflows/chain 200 \S+ ms, sent {task_id}$", texts, re.MULTILINE
    )
    assert re.search(rf"\[{request_id}\] Task \S+\[{task_id}\] succeeded in ", texts)
    assert f"GET /v1/tasks/{task_id}/timeline 200" in texts  # what the guide has just asked

    assert together.count(f"[{request_id}]") == len(together.splitlines()) == 4
    assert together.count(" succeeded in ") == 3
    assert dead
    assert task_id in ended


def test_a_request_s_lines_are_shown_as_they_come(stack: Clone, tmp_path: Path) -> None:
    request_id = str(uuid.uuid4())
    with (tmp_path / "said").open("w+") as said:
        following = subprocess.Popen(
            ["./stack", "logs", "--request", request_id, "--follow"],
            cwd=stack.folder,
            env=stack.environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(base_url=stack.url, timeout=60, headers={"X-Request-ID": request_id}) as http:
                path, document = "/v1/project-worker/integers-sum", {"integers": [1, 2]}
                assert http.post(path, json=document).json()["result"] == 3
            wait_until(lambda: len((tmp_path / "said").read_text().splitlines()) == 2, 30, "both lines are shown")
        finally:
            following.terminate()
            following.wait(30)
    shown = (tmp_path / "said").read_text().splitlines()
    assert sorted(line.split(" ", 1)[0] for line in shown) == ["project-api", "project-worker"]
    assert [line for line in shown if f" [{request_id}] " not in line] == []
