"""The API's description of itself: true for generated requests, and readable in a browser without internet.

`schemathesis` sends examples, edge values, random valid and invalid data and whole sequences of calls, with every
check it has; what it may not send or expect is in `schemathesis.toml` and `generation.py`, with reasons.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clone import Clone
from playwright.sync_api import Page, Request, sync_playwright

HERE = Path(__file__).parent
EXAMPLES = 100 if float(os.environ.get("FAULT_SCALE", "0")) else 10  # per operation and phase

# `./stack test` installs Debian's when there is none.
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
# Without the last three, Chromium asks for hosts of its own.
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]


@pytest.fixture
def left_alone(stack: Clone) -> Clone:
    """The stack, once nothing restarts it any more.

    An earlier test's last save may have brought the API back before `reload` restarts it for the same save.
    """
    pids: list[int] = []
    while len(pids) < 8 or len(set(pids[-8:])) > 1:
        assert len(pids) < 90, "the API is restarted again and again"
        time.sleep(1)
        pids.append(stack.program("api:app").pid if stack.ready() else -len(pids))
    return stack


def test_the_api_keeps_what_its_openapi_text_promises(left_alone: Clone, tmp_path: Path) -> None:
    stack = left_alone
    api = stack.program("api:app").pid
    # DELETE /v1/tasks/{id} cancels; what is cancelled can still be read, by design: no `use_after_free`. A new
    # country has no statistics until one of its cities is written: no `ensure_resource_availability`.
    excluded = "use_after_free,ensure_resource_availability"
    options = f"--checks all --exclude-checks {excluded} --mode all --max-examples {EXAMPLES}"
    # Half of the keys that it makes are null, which is no header (`generation.py`).
    options += " --suppress-health-check=filter_too_much"
    command = f"st --config-file {HERE}/schemathesis.toml run {stack.url}/openapi.json {options}"
    result = subprocess.run(
        shlex.split(f"{Path(sys.executable).parent}/{command}"),
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "generation", "PYTHONPATH": str(HERE), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500 if EXAMPLES == 100 else 600,
        check=False,
    )
    lived = stack.program("api:app").pid == api
    assert result.returncode == 0, (
        f"{result.stdout}\nthe API {'lived' if lived else 'ended'}; its last lines:\n"
        + (stack.must("logs", "project-api", "-n", "40"))
    )
    cases = re.search(r"(\d+) generated", result.stdout)
    assert cases
    print(f"schemathesis: {cases[1]} requests")
    assert int(cases[1]) > 500
    assert "unhandled error" not in stack.must("logs", "project-api", "-n", "100000")


@pytest.fixture
def page(stack: Clone) -> Iterator[Page]:
    """A page of a real Chromium that reaches nothing but the API; asking for more fails the test."""
    asked: list[str] = []

    def remember(request: Request) -> None:
        asked.append(request.url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=CHROMIUM)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.route(lambda url: not url.startswith(stack.url), lambda route: route.abort())
        opened = context.new_page()
        opened.on("request", remember)
        yield opened
        browser.close()
    assert [url for url in asked if not url.startswith((stack.url, "data:"))] == []


def test_docs_work_in_a_browser_without_internet(stack: Clone, page: Page, tmp_path: Path) -> None:
    page.goto(f"{stack.url}/docs")
    operation = page.locator(".opblock", has_text="/v1/project-worker/integer-multiplication").first
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table tbody")
    answer.wait_for()
    assert '"result": 42' in answer.inner_text()
    picture = tmp_path / "docs.png"
    page.screenshot(path=picture)
    assert picture.stat().st_size > 20_000
    print(f"picture: {picture}")


def test_the_schema_opens_in_a_browser(stack: Clone, page: Page) -> None:
    page.goto(f"{stack.url}/openapi.json")
    assert '"openapi":"3.1.0"' in page.inner_text("body")
