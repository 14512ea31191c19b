"""Everything is watched: Prometheus reaches all, and Flower shows the workers to those who may see them."""

import re
from typing import Any

import httpx
from clone import Clone, wait_until


def flower(stack: Clone, path: str) -> Any:
    """Ask Flower with its login."""
    settings = stack.settings()
    login = settings["FLOWER_USER"], settings["FLOWER_PASSWORD"]
    return httpx.get(f"http://127.0.0.1:{settings['FLOWER_PORT']}{path}", auth=login, timeout=10).json()


def prometheus(stack: Clone, query: str) -> list[dict[str, Any]]:
    """Return a query's series."""
    url = f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1/query"
    answer = httpx.get(url, params={"query": query}, timeout=10).json()
    series: list[dict[str, Any]] = answer["data"]["result"]
    return series


def test_up_ends_when_all_is_watched(stack: Clone, first_up: str) -> None:
    said = re.search(r"Prometheus scrapes (\d+) of (\d+) targets, after (\d+\.\d) s", first_up)
    assert said, first_up
    assert said[1] == said[2]
    assert float(said[3]) <= 30
    assert int(said[1]) >= 12
    # On a busy machine a single scrape may take longer than it is given; the next one does not.
    wait_until(lambda: not prometheus(stack, "up == 0"), 30, "all targets are scraped")
    assert len(prometheus(stack, "up")) >= int(said[1])


def test_the_api_says_which_commit_runs(stack: Clone) -> None:
    ((sample),) = prometheus(stack, "app_build_info")
    assert sample["metric"]["revision"] == "unknown"  # the clone's folder is in no git


def test_flower_asks_for_a_login(stack: Clone) -> None:
    address = f"http://127.0.0.1:{stack.ports['FLOWER_PORT']}"
    for path in ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"):
        assert httpx.get(address + path, timeout=10).status_code == 401, path
        assert httpx.get(address + path, auth=("project", "another"), timeout=10).status_code == 401, path


def test_flower_shows_both_workers_and_forgets_no_task_when_restarted(stack: Clone) -> None:
    def online() -> set[str]:
        workers = flower(stack, "/workers?json=1")["data"]
        return {worker["hostname"].partition("@")[0] for worker in workers if worker["status"]}

    wait_until(lambda: online() == {"worker", "pickle"}, 30, "Flower knows the workers")
    stack.multiply(6, 7)

    def finished() -> set[str]:
        tasks = flower(stack, "/api/tasks?limit=1000").items()
        return {name for name, task in tasks if task["state"] == "SUCCESS" and task["result"] == "42"}

    wait_until(finished, 30, "Flower has seen the task succeed")
    before = finished()
    stack.must("restart", "flower")
    wait_until(lambda: before <= finished(), 30, "Flower remembers the tasks")
