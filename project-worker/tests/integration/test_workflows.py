"""Chain, group, chord and `world-statistics`, composed by names as the API composes them."""

from celery import chain, chord, group
from worker_process import RunningWorker

from project_contracts.integers import INTEGER_MULTIPLICATION, INTEGERS_SUM
from project_contracts.statistics import CONTINENT_STATISTICS, CONTINENTS, WORLD_REPORT, WorldReport
from worker.domain import statistics
from worker.domain.geonames import load_world


def test_chain_hands_each_result_to_the_next_task(worker: RunningWorker) -> None:
    """2 ** 100: intermediate results are larger than any integer that a client may send."""
    first = worker.signature(INTEGER_MULTIPLICATION, multiplicand=1, multiplier=2)
    others = [worker.signature(INTEGER_MULTIPLICATION, multiplier=2) for _ in range(99)]
    assert chain(first, *others, app=worker.client).apply_async().get(timeout=20) == 2**100


def test_group_runs_side_by_side(worker: RunningWorker) -> None:
    tasks = [worker.signature(INTEGER_MULTIPLICATION, multiplicand=3, multiplier=n) for n in range(10)]
    assert group(tasks, app=worker.client).apply_async().get(timeout=20) == [3 * n for n in range(10)]


def test_chord_hands_all_results_to_its_body(worker: RunningWorker) -> None:
    tasks = [worker.signature(INTEGER_MULTIPLICATION, multiplicand=3, multiplier=n) for n in range(10)]
    total = chord(tasks, worker.signature(INTEGERS_SUM), app=worker.client).apply_async()
    assert total.get(timeout=20) == sum(3 * n for n in range(10))


def test_world_statistics_over_the_real_data(worker: RunningWorker) -> None:
    """The functions themselves are tested against an independent computation in the unit tests."""
    continents = [worker.signature(CONTINENT_STATISTICS, continent=code) for code in CONTINENTS]
    result = chord(continents, worker.signature(WORLD_REPORT), app=worker.client).apply_async().get(timeout=60)
    report = WorldReport.model_validate(result)

    world = load_world()
    assert report == statistics.merge([statistics.report_continent(code, world[code]) for code in CONTINENTS])
    assert report.cities == 234_908
    assert report.dead_countries == ["AN", "CS"]
