"""The Docker start, run for real: our Dockerfiles built, compose.yaml brought up, tested as the native stack is.

How it works: `docker/` finds or starts an engine and makes stand-ins for the images that only a registry has. The
tests of the native stack are imported and run here against the containers: fixtures of the same names give them
this file's system. What no stand-in exists for is skipped with its reason, and counted as that.

What belongs here: what is Docker's own. What both start modes can do is tested in the files it is imported from.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from clone import REPOSITORY, wait_until
from docker import engine as engines
from docker import images
from docker.composed import ONE_SHOTS, PROJECT, STARTED_WITHIN, Composed, service
from docker.engine import Engine
from test_2_data import (  # noqa: F401 - run here as well, by the fixtures of this file
    follow,
    geonames,
    test_a_written_city_refreshes_its_countrys_statistics,
    test_all_of_geonames_is_imported,
    test_an_import_can_be_cancelled,
    test_an_uploaded_file_changes_adds_and_reports,
    test_cities_are_found_as_people_write_them,
    test_the_last_page_is_as_near_as_the_first,
)
from test_2_monitoring import flower, prometheus
from test_2_tasks import (  # noqa: F401
    test_a_long_chain_has_an_exact_result,
    test_a_task_whose_arguments_json_cannot_hold,
    test_tasks,
    test_the_largest_workflows,
    test_the_second_world_report_comes_within_the_default_wait,
    test_what_has_ended_is_listed_and_has_a_timeline,
    test_workflows,
    test_world_statistics,
)
from test_6_dashboards import OLDER, Watched, metrics_of, natively
from test_6_faults import check_oracle, load, works
from test_8_pgadmin import (  # noqa: F401
    page,
    test_another_password_is_refused,
    test_the_database_opens_without_a_prompt,
)

pytestmark = pytest.mark.skipif(
    not float(os.environ.get("FAULT_SCALE", "0")),
    reason="installs an engine and builds images, in minutes: ./stack test --all does it",
)

CACHE = Path(os.environ.get("STACK_CACHE", REPOSITORY / ".stack/cache")) / "docker"
NOT_RUN = ("grafana", "cadvisor", "elasticsearch", "kibana", "filebeat")
"""Their images come from a registry only, their programs from no package of Debian or PyPI."""
LIMITS = {"project-api": 250, "project-worker": 400}
"""How many MB an image may have."""
OURS = ("project-api", "project-worker", "project-worker-pickle", "project-worker-reaper", "flower")
ASKED = {
    "postgres": "postgres --version",
    "redis": "redis-server --version",
    "rabbitmq": "rabbitmqctl version",
    "prometheus": "prometheus --version",
    "alertmanager": "alertmanager --version",
    "node-exporter": "node_exporter --version",
    "postgres-exporter": "postgres_exporter --version",
    "redis-exporter": "/redis_exporter --version",
    "pgadmin": "/venv/bin/python -c 'import config; print(config.APP_VERSION)'",
    "project-api": "python --version",
}
"""Service: what its container is asked for its version, for all that .env pins and that is run."""
AFTER_FAULTS = {"celery_worker_task_failures_total", "http_exceptions_total"}
"""Metrics that begin with the first fault."""
NOT_COUNTED = "by sessions themselves"
"""A line of a panel that has no numbers here, as its panel says."""
UP_WITHIN = 300  # s, images present; 62 were seen


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with engines.running(CACHE) as running:
        yield running


@pytest.fixture(scope="module")
def clone(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    made = Composed(tmp_path_factory.mktemp("docker"), engine)
    assert made.left(volumes=True) == [], f"there is a {PROJECT} already: docker-compose -p {PROJECT} down -v"
    images.make_stand_ins(engine)
    images.make_ours(engine, made.folder, made.settings()["PROJECT_VERSION"])
    try:
        yield made
    finally:
        made.compose("down --volumes --timeout 30")


@pytest.fixture(scope="module")
def first_up(clone: Composed) -> str:
    """How long the first `up` took, and what it holds while nothing is asked of it."""
    started = time.monotonic()
    clone.compose("up -d --wait")
    took = time.monotonic() - started
    profiles = {name: each.get("profiles", ["core"])[0] for name, each in clone.describe()["services"].items()}
    idle: Counter[str] = Counter()
    for name, (used, _) in clone.memory().items():
        idle[profiles[name]] += round(used)
    return f"up -d --wait, images present, no data: {took:.1f} s; idle memory, MB: {dict(idle)}"


@pytest.fixture
def stack(clone: Composed, first_up: str) -> Composed:
    return clone


@pytest.fixture
def http(stack: Composed) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client


@pytest.fixture
def page_of_pgadmin(stack: Composed) -> str:
    return f"http://127.0.0.1:{stack.ports['PGADMIN_PORT']}"


def healthy(stack: Composed) -> Callable[[], bool]:
    """Return a condition: every service is healthy, or has ended well."""
    return lambda: set(stack.states().values()) <= {"healthy", "exited 0"}


def test_every_service_becomes_healthy(stack: Composed, first_up: str) -> None:
    print(first_up)
    declared = set(stack.compose("config --services").split())
    states = stack.states()
    assert set(states) == declared
    assert states == dict.fromkeys(declared - ONE_SHOTS, "healthy") | dict.fromkeys(ONE_SHOTS, "exited 0")


def test_the_pinned_majors_are_what_runs(stack: Composed) -> None:
    pins = stack.settings()
    behind, others = [], []
    for name, question in ASKED.items():
        pin = pins["PYTHON_VERSION" if name == "project-api" else f"{name.replace('-', '_').upper()}_VERSION"]
        said = stack.engine.run("exec", stack.containers(name)[0]["Id"], "sh", "-c", f"{question} 2>&1")
        found = re.search(r"(?<![\d.:])\d+\.\d+(\.\d+)?", said)  # not the time of a log line
        assert found, said
        fixed = 2 if name == "project-api" else 1  # Python's series is its first two numbers
        if found[0].split(".")[:fixed] != pin.split(".")[:fixed]:
            others.append(f"{name} {found[0]}, pinned {pin}")
        if found[0].split(".")[: pin.count(".") + 1] != pin.split("."):
            behind.append(f"{name} {found[0]} for {pin}")
        print(f"version: {name} {found[0]}, pinned {pin}")
    print(f"another minor than the pinned one: {', '.join(behind) or 'none'}")
    assert others == []


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_cannot_be_run_here(name: str) -> None:
    pytest.skip(f"checked, not run: {name}'s image is in a registry only; ops/tests checks its configuration")


def test_every_target_is_scraped(stack: Composed) -> None:
    def down() -> set[str]:
        return {each["metric"]["job"] for each in prometheus(stack, "up == 0")}

    def scraped() -> set[str]:
        return {each["metric"]["job"] for each in prometheus(stack, "up == 1")}

    every = {"prometheus", "alertmanager", "rabbitmq", "rabbitmq-detailed", "postgres", "redis", "node"}
    every |= {"project-api", "project-worker", "flower"}
    wait_until(lambda: scraped() >= every and down() <= set(NOT_RUN), 60, "all targets that run are scraped")


def test_what_dashboards_and_rules_read_is_exported(stack: Composed) -> None:
    watched = Watched(stack)
    names = {name for question in natively(watched) for name in metrics_of(question.expr)}
    for path in stack.folder.glob("infra/prometheus/rules/*.yml"):
        rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
        names |= {name for rule in rules for name in metrics_of(rule["expr"])}
    assert len(names) > 150
    here = {name for name in names if not name.startswith(("container_", "namedprocess_"))}  # exporters not run
    wait_until(lambda: here - watched.exported() <= OLDER | AFTER_FAULTS, 60, "every metric is exported")
    assert OLDER & watched.exported() == set()
    older = [one for one in natively(watched) if metrics_of(one.expr) & OLDER and one.legend != NOT_COUNTED]
    assert len(older) == 2
    wait_until(lambda: not watched.empty(older), 60, "panels with a name of older servers find another one here")
    watched.http.close()


def test_flower_has_a_login_and_shows_the_workers(stack: Composed) -> None:
    address = f"http://127.0.0.1:{stack.ports['FLOWER_PORT']}"
    for path in ("/", "/workers", "/tasks", "/api/workers"):
        assert httpx.get(address + path, timeout=10).status_code == 401, path

    def online() -> set[str]:
        workers = flower(stack, "/workers?json=1")["data"]
        return {worker["hostname"].partition("@")[0] for worker in workers if worker["status"]}

    wait_until(lambda: online() == {"worker", "pickle"}, 60, "Flower knows the workers")


def test_the_seeds_login_opens_rabbitmq(stack: Composed) -> None:
    overview = f"http://127.0.0.1:{stack.ports['RABBITMQ_MANAGEMENT_PORT']}/api/overview"
    assert httpx.get(overview, auth=("guest", "guest"), timeout=10).status_code == 200
    assert httpx.get(overview, auth=("guest", "another"), timeout=10).status_code == 401


def test_everything_is_published_on_loopback_only(stack: Composed) -> None:
    published = {
        (service(container), binding["HostIp"])
        for container in stack.containers()
        for bindings in container["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert len(published) >= 10
    assert {address for _, address in published} == {"127.0.0.1"}


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_nobody_and_write_nowhere(stack: Composed, name: str) -> None:
    container = stack.containers(name)[0]["Id"]
    assert stack.engine.run("exec", container, "id", "-u").strip() != "0"
    script = "import os\nfor p in ('/x', '/app/x', os.path.expanduser('~/x')):\n try: open(p, 'w')\n"
    script += " except OSError: continue\n raise SystemExit(p)"
    stack.engine.run("exec", container, "python", "-c", script)


@pytest.mark.parametrize("name", images.OURS)
def test_the_images_are_small(stack: Composed, name: str) -> None:
    image = images.ours(name, stack.settings()["PROJECT_VERSION"])
    base = images.size(stack.engine, images.PYTHON.tag)
    size = images.size(stack.engine, image)
    print(f"image {name}: {size:.0f} MB, of which its base is {base:.0f} MB")
    assert size < LIMITS.get(name, 400)


def test_in_production_the_committed_logins_are_refused(stack: Composed) -> None:
    for name in ("project-api", "project-worker"):
        command = f"run --rm --no-deps -T -e ENVIRONMENT=production {name} 2>&1"
        said = stack.run(f"! docker-compose -p {PROJECT} {command}", timeout=120)
        assert "production" in said
        assert "RABBITMQ_PASSWORD" in said.upper()


def test_nobody_is_near_its_memory_limit(stack: Composed) -> None:
    memory = stack.memory()
    assert set(memory) == set(stack.states()) - ONE_SHOTS
    for name, (used, limit) in memory.items():
        print(f"memory after imports, {name}: {used:.0f} MB of {limit:.0f} MB")
    assert [name for name, (used, limit) in memory.items() if used > 0.9 * limit] == []


def test_the_front_door_takes_over_what_runs(stack: Composed) -> None:
    said = stack.must("up", "--docker", timeout=STARTED_WITHIN)
    assert "= 42" in said
    scraped = re.search(r"Prometheus scrapes (\d+) of (\d+) targets", said)
    assert scraped
    assert int(scraped[2]) - int(scraped[1]) <= 1  # cAdvisor is not run
    status = stack.must("status")
    assert [name for name in stack.states() if name not in status] == []


def test_the_worker_scaled_to_three(stack: Composed) -> None:
    stack.compose("up -d --wait --no-recreate --scale project-worker=3")
    assert len(stack.containers("project-worker")) == 3
    seen: set[str] = set()

    def all_three_work() -> bool:
        with httpx.Client(base_url=stack.url, timeout=60) as http:
            answer = http.post("/v1/project-worker/worker-information").json()
        seen.add(answer["result"]["hostname"])
        return len(seen) == 3

    wait_until(all_three_work, 60, f"tasks are worked in three containers: {seen}")


def test_the_broker_restarted_under_load_loses_nothing(stack: Composed) -> None:
    with load(stack) as seen:
        wait_until(lambda: len(seen.accepted) > 10, 20, "there is some load")
        stack.compose("restart rabbitmq")
        recovery = wait_until(lambda: works(stack), 60, "all is well again")
    check_oracle(stack, seen, "rabbitmq's container restarted, three workers", recovery)


def test_servers_come_back_from_a_restart(stack: Composed) -> None:
    # A second start finds what the first one has left: a folder in memory keeps its mode, not its owner.
    servers = ["postgres", "redis", "rabbitmq", "prometheus", "alertmanager", "flower", "pgadmin"]
    stack.compose(f"restart {' '.join(servers)}", timeout=300)
    wait_until(healthy(stack), UP_WITHIN, "all is well again")
    assert stack.multiply(6, 7).json()["result"] == 42


def test_workers_stopped_while_they_work_lose_nothing(stack: Composed, http: httpx.Client) -> None:
    with load(stack) as seen:
        wait_until(lambda: len(seen.accepted) > 50, 30, "there are tasks")
        accepted = http.post("/v1/imports", json={"source": "geonames"})
        location = accepted.headers["location"]
        wait_until(lambda: http.get(location).json()["rows"]["processed"] > 0, 120, "an import is being worked")
        started = time.monotonic()
        stack.compose("stop project-worker", timeout=400)
        took = time.monotonic() - started
        document = http.get(location).json()
        print(f"the import when all workers had stopped: {document['status']}, {document['rows']}")
    codes = {container["State"]["ExitCode"] for container in stack.containers("project-worker")}
    assert codes == {0}  # they ended themselves: 137 would be Docker's kill
    began = time.monotonic()
    stack.compose("start project-worker")
    check_oracle(stack, seen, f"workers stopped with tasks running, in {took:.1f} s", time.monotonic() - began)
    assert follow(http, accepted)["status"] == "SUCCESS"


def test_both_spellings_reach_the_same(stack: Composed) -> None:
    for spelling in ("docker-compose", "docker compose"):
        listed = set(stack.run(f"{spelling} -p {PROJECT} ps --services").split())
        assert listed >= {"project-api", "project-worker", "rabbitmq"}


def test_the_seeds_commands_word_for_word(stack: Composed) -> None:
    """README's order: up, stop the projects, up again, down; a row survives, and nothing else is left."""
    with httpx.Client(base_url=stack.url, timeout=60) as http:
        france = http.get("/v1/countries", params={"code": "FR"}).json()["items"][0]
    stack.run("docker-compose -p local-dev stop project-api")
    stack.run("docker-compose -p local-dev stop project-worker", timeout=400)
    states = stack.states()
    # Ended by themselves, not killed (137): uvicorn hands on the signal that it has obeyed, which is 128 + 15.
    assert (states["project-api"], states["project-worker"]) == ("exited 143", "exited 0")
    assert {states[name] for name in ("postgres", "rabbitmq", "redis", "flower")} == {"healthy"}

    started = time.monotonic()
    stack.run("docker-compose -p local-dev down", timeout=400)
    print(f"down: {time.monotonic() - started:.1f} s")
    assert stack.left(volumes=False) == []

    started = time.monotonic()
    stack.run("docker-compose -p local-dev up -d")
    print(f"up -d, with data: {time.monotonic() - started:.1f} s")
    wait_until(healthy(stack), UP_WITHIN, f"all is well again: {stack.states()}")
    assert stack.multiply(6, 7).json()["result"] == 42
    assert httpx.get(f"{stack.url}/v1/countries/{france['geonameid']}", timeout=30).json() == france


def test_down_with_volumes_leaves_nothing(stack: Composed) -> None:
    stack.compose("down --volumes", timeout=400)
    assert stack.left(volumes=True) == []
    assert re.search(PROJECT, stack.engine.run("ps", "--all")) is None
