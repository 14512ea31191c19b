"""The benchmark's arithmetic and words: what is compared with what, which goal is reached, and what is shown."""

import base64
import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from stack import locks
from stack.bench import geonames, product, report, rows, session
from stack.bench.broker import FORMER, name_of
from stack.bench.contenders import API, LIMIT, OURS, PEERS, REFERENCE, ContenderError
from stack.bench.goals import GOALS, Goal, verdict
from stack.bench.lab import Lab
from stack.bench.results import Measurement, RowResult, Surroundings, percentile
from stack.bench.row import Row, Scale, Turn
from stack.bench.rows import pages
from stack.bench.rows.bare import fingerprint, write_cursor
from stack.bench.store import commands
from stack.errors import UsageError
from stack.servers.projects import ROOTS

ROOT = Path(__file__).parents[3]
SURROUNDINGS = Surroundings(
    date="2026-01-02 03:04 UTC",
    mode="quick",
    machine={"processor": "abacus, 2 cores"},
    servers={"RabbitMQ": "3.10"},
    versions={OURS.name: "celery 5.7.0"},
    load=0.5,
)


def result(**figures: list[float]) -> RowResult:
    """Return an enqueue row with one figure per round: `ours`, `reference`, `limit`, `taskiq`, ..."""
    names = {"ours": OURS.name, "reference": REFERENCE.name, "limit": LIMIT.name}
    names |= {peer.folder: peer.name for peer in PEERS}
    return RowResult(
        row="enqueue",
        surroundings=SURROUNDINGS,
        measurements=[
            Measurement(contender=names[who], case="classic @50", round=number, values={"tasks/s": value})
            for who, values in figures.items()
            for number, value in enumerate(values)
        ],
    )


def goal(bound: float, *against: str, is_at_most: bool = False) -> Goal:
    return Goal(
        row="enqueue",
        figure="f",
        case="classic @50",
        metric="tasks/s",
        bound=bound,
        against=against,
        is_at_most=is_at_most,
    )


def test_a_ratio_is_taken_round_by_round_so_that_drift_cancels() -> None:
    drifting = result(ours=[20.0, 200.0, 2000.0], reference=[10.0, 100.0, 1000.0])
    assert drifting.ratio(OURS.name, REFERENCE.name, "classic @50", "tasks/s", "classic @50") == 2.0
    one_missing = result(ours=[20.0, 200.0], reference=[10.0])
    assert one_missing.ratio(OURS.name, REFERENCE.name, "classic @50", "tasks/s", "classic @50") == 2.0
    assert result(ours=[20.0]).ratio(OURS.name, REFERENCE.name, "classic @50", "tasks/s", "classic @50") is None


def test_results_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    written = result(ours=[1.5], reference=[2.5])
    assert RowResult.read(written.write(tmp_path)) == written
    assert report.read(tmp_path) == {"enqueue": written}


def test_a_percentile_is_the_nearest_rank_and_of_nothing_there_is_none() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 3
    assert percentile(range(100), 0.99) == 99
    assert percentile([7], 0.99) == 7
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("ours", "bound", "is_at_most", "words"),
    [
        (180.0, 18, False, "reached"),
        (179.0, 18, False, "short, but ≥ 80% (99% of the goal)"),
        (144.0, 18, False, "short, but ≥ 80% (80% of the goal)"),
        (140.0, 18, False, "missed (78% of the goal)"),
        (0.2, 1 / 50, True, "reached"),
        (0.21, 1 / 50, True, "short, but ≥ 80% (95% of the goal)"),
        (0.4, 1 / 50, True, "missed (50% of the goal)"),
        (0.0, 1 / 50, True, "reached"),
    ],
)
def test_a_goal_is_reached_short_or_missed(ours: float, bound: float, is_at_most: bool, words: str) -> None:
    results = {"enqueue": result(ours=[ours], reference=[10.0])}
    assert verdict(goal(bound, REFERENCE.name, is_at_most=is_at_most), results).words == words


def test_a_goal_beyond_the_limit_is_shown_with_the_limits_own_ratio() -> None:
    results = {"enqueue": result(ours=[120.0], reference=[10.0], limit=[150.0])}
    limited = replace(goal(18, REFERENCE.name), limit=LIMIT.name)
    said = "missed (67% of the goal; the limit itself gets 15×, ours is 80% of it)"
    assert verdict(limited, results).words == said
    assert verdict(replace(limited, bound=14.0), results).words == "short, but ≥ 80% (86% of the goal)"
    assert verdict(replace(limited, bound=12.0), results).words == "reached"
    unknown = {"enqueue": result(ours=[120.0], reference=[10.0])}
    assert verdict(limited, unknown).words == "missed (67% of the goal)"
    at_most = replace(limited, bound=10.0, is_at_most=True)
    said = "short, but ≥ 80% (83% of the goal; the limit itself gets 15×, ours is 80% of it)"
    assert verdict(at_most, results).words == said
    assert verdict(replace(at_most, bound=15.0), results).words == "reached"
    assert (
        verdict(
            replace(at_most, bound=11.0), {"enqueue": result(ours=[120.0], reference=[10.0], limit=[110.0])}
        ).words
        == "short, but ≥ 80% (92% of the goal)"
    )


def test_a_queue_gets_its_policy_by_its_name() -> None:
    assert name_of("classic", 1, consumed=False) == name_of("quorum", 1, consumed=False) == "bench-filled-1"
    assert name_of("classic", 2, consumed=True) == "bench-consumed-2"
    assert name_of(FORMER, 3, consumed=False) == "bench-former-3"


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    for results in ({}, {"enqueue": result(ours=[1.0])}, {"enqueue": result(reference=[1.0])}):
        assert verdict(goal(2, REFERENCE.name), results).words == "not measured"


def test_the_best_peer_is_the_one_to_beat() -> None:
    peers = tuple(peer.name for peer in PEERS)
    results = {"enqueue": result(ours=[60.0], taskiq=[10.0], dramatiq=[30.0], aio_celery=[20.0])}
    fastest = verdict(goal(2, *peers), results)
    assert (fastest.value, fastest.versus) == (2.0, "best peer: dramatiq (6 threads)")
    leanest = verdict(goal(1, *peers, is_at_most=True), results)
    assert (leanest.value, leanest.versus) == (6.0, "best peer: taskiq (aio-pika)")


def test_a_figure_is_compared_with_another_one_of_the_same_contender() -> None:
    far, first = pages.case("name", "far"), pages.case("name", "first")
    found = [
        Measurement(contender=API.name, case=case, round=number, values={"p99 ms": value})
        for number, (near, distant) in enumerate([(2.0, 2.4), (4.0, 4.8), (3.0, 9.0)])
        for case, value in ((first, near), (far, distant))
    ]
    results = {"pages": RowResult(row="pages", surroundings=SURROUNDINGS, measurements=found)}
    (one,) = (one for one in GOALS if one.case == far)
    found_verdict = verdict(one, results)
    assert (found_verdict.value, found_verdict.words) == (1.2, "reached")
    assert found_verdict.versus == f"itself: {first}"


def test_every_goal_is_about_something_that_is_measured() -> None:
    known = {row.name: row for row in rows.ROWS}
    for one in GOALS:
        row = known[one.row]
        cases = {column.case for table in row.tables for column in table.columns}
        assert one.case in cases, one.figure
        assert not one.other_case or one.other_case in cases, one.figure
        shown = {contender.name for contender in row.contenders} | {
            turn.contender for turn in row.turns(Scale(is_full=True))
        }
        assert {one.ours, *one.against} <= shown, one.figure


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_contenders_take_turns_within_each_round(row: Row) -> None:
    for scale in (Scale(is_full=False), Scale(is_full=True)):
        turns = row.turns(scale)
        assert 0 < len(turns) < 200
        seen = [(turn.case, turn.contender, turn.round) for turn in turns]
        assert len(set(seen)) == len(seen)
        for case in {turn.case for turn in turns}:
            numbers = [turn.round for turn in turns if turn.case == case]
            assert numbers == sorted(numbers), "a round begins when the one before has ended"


def test_rows_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert [row.name for row in rows.by_name(["http", "enqueue"])] == ["enqueue", "http"]
    assert rows.by_name([]) == list(rows.ROWS)
    with pytest.raises(UsageError) as caught:
        rows.by_name(["enqueue", "nope"])
    assert "nope" in caught.value.message
    assert "round-trip" in caught.value.hint


def test_a_turn_that_fails_is_a_result(lab: Lab) -> None:
    def act(*_: object) -> Iterator[tuple[str, dict[str, float]]]:
        yield "first", {"tasks/s": 1.0}
        raise ContenderError("it fell over")

    found = Turn(contender="c", case="all", round=2, act=act).take(lab, {})
    assert [(one.case, one.failure) for one in found] == [("first", ""), ("all", "it fell over")]
    assert found[0].values == {"tasks/s": 1.0}
    assert {one.round for one in found} == {2}


@pytest.fixture
def lab() -> Lab:
    return None  # type: ignore[return-value] # the turn only passes it on


def test_the_report_shows_figures_verdicts_failures_and_surroundings() -> None:
    measured = result(ours=[1234.5, 1236.5], reference=[10.0, 10.0])
    failed = Measurement(contender="dramatiq", case="classic", round=0, values={}, failure="it fell over")
    measured = replace(measured, measurements=[*measured.measurements, failed])
    text = report.markdown({"enqueue": measured})
    assert f"| {OURS.name} | - | 1,236 | - | - | - |" in text
    assert f"| enqueue @50, confirmed | {REFERENCE.name} | 124× | ≥ 18× | reached |" in text
    assert "| - | ≥ 8× | not measured |" in text
    assert "- failed: dramatiq, classic: it fell over" in text
    assert "abacus, 2 cores" in text
    assert "2026-01-02 03:04 UTC, quick mode; load before it 0.50 per core" in text
    assert "![Enqueue](results/enqueue.png)" in text
    assert "| worker for async tasks, no-op with stored result | limit: bare asyncio consumer | - |" in text
    output = io.StringIO()
    console = Console(file=output, width=150)
    report.show(rows.ROWS[0], measured, console)
    report.show_goals({"enqueue": measured}, rows.ROWS[:1], console)
    assert "1,236" in output.getvalue()
    assert "it fell over" in output.getvalue()
    assert "reached" in output.getvalue()
    assert "HTTP" not in output.getvalue(), "goals of rows that did not run"


def test_ratios_read_as_people_write_them() -> None:
    assert (goal(18, "a").wanted, goal(1 / 50, "a", is_at_most=True).wanted) == ("≥ 18×", "≤ 1/50")
    assert goal(1.5, "a", is_at_most=True).text(0.8) == "0.8×"
    assert replace(goal(20, is_at_most=True), unit=" ms").wanted == "≤ 20 ms"


def test_redis_commands_are_counted_without_our_own() -> None:
    text = "# Commandstats\r\ncmdstat_get:calls=5,usec=9\r\ncmdstat_info:calls=7,usec=1\r\n"
    text += "cmdstat_client|setinfo:calls=2,usec=1\r\ncmdstat_psubscribe:calls=1,usec=1\r\n"
    assert commands(text) == 6


def test_every_contender_has_a_program_requirements_and_a_lock() -> None:
    folders = {path.name for path in (ROOT / "benchmarks/contenders").iterdir() if path.is_dir()}
    used = {contender.folder for row in rows.ROWS for contender in row.contenders}
    assert folders == used - set(ROOTS), "the projects lie elsewhere, and take part as they are"
    locked = {Path(lock.path).parent for lock in locks.BENCHMARKS}
    assert locked == {Path("benchmarks/contenders") / name for name in folders} | {Path("benchmarks/plots")}
    for name in folders:
        program = ROOT / "benchmarks/contenders" / name / "contender.py"
        assert program.read_text().startswith('"""'), "each file opens with its role"


def test_reported_versions_are_of_packages_that_are_locked() -> None:
    for contender in {contender for row in rows.ROWS for contender in row.contenders}:
        (lock,) = contender.environment.locks
        pinned = {pin.partition("==")[0] for pin in locks.pins((ROOT / lock).read_text())}
        assert set(contender.packages) <= pinned, contender.name


def test_a_cursor_is_moved_to_another_place_of_its_list() -> None:
    """As app/database/keyset.py writes them: eight bytes for the list, then the place as JSON."""
    listed = bytes(range(8))
    first = write_cursor(listed, ["Ölüdeniz", 307654])
    assert fingerprint(first) == listed
    assert base64.urlsafe_b64decode(first + "=" * (-len(first) % 4))[8:] == b'["\\u00d6l\\u00fcdeniz", 307654]'
    assert "=" not in first


def test_a_row_that_cannot_start_is_a_failure_of_that_row_alone(tmp_path: Path) -> None:
    @contextmanager
    def refuse(*_: object) -> Iterator[dict[str, str]]:
        raise ContenderError("project-api was not ready")
        yield {}

    def act(*_: object) -> Iterator[tuple[str, dict[str, float]]]:
        yield "all", {"tasks/s": 1.0}

    def turns(_: Scale) -> list[Turn]:
        return [Turn(contender="c", case="all", round=0, act=act)]

    good = replace(rows.ROWS[0], contenders=(), turns=turns)
    bad = replace(good, name="bad", standing=refuse)
    version = SimpleNamespace(version="1")
    servers: Any = SimpleNamespace(broker=version, store=version, database=version, instance=None)
    console = Console(file=io.StringIO())
    failed, measured = session._measure(servers, [bad, good], Scale(is_full=False), tmp_path, console)
    assert [(one.case, one.failure) for one in failed.failures()] == [("start", "project-api was not ready")]
    assert not measured.failures()
    assert RowResult.read(tmp_path / "bad.json") == failed


def test_synthetic_cities_are_whole_rows_of_a_file(tmp_path: Path) -> None:
    geonames.write_synthetic(tmp_path / "cities.csv", 20_000)
    with (tmp_path / "cities.csv").open(newline="") as file:
        cities = list(csv.DictReader(file))
    assert [int(city["geonameid"]) for city in cities] == list(range(1, 20_001))
    assert all(
        -90 <= float(city["latitude"]) <= 90 and -180 <= float(city["longitude"]) <= 180 for city in cities
    )
    assert {city["country_code"] for city in cities} == {"FR"}


def test_memory_is_that_of_the_largest_process_of_a_tree() -> None:
    code = "import sys; held = bytearray(64 << 20); print(len(held), flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 64 << 20 < product.peak_memory(process.pid) < 128 << 20
        process.communicate()
