"""Numbers as Grafana writes them."""

import pytest

from dashboards import units


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00042, "s", "420 µs"),
        (0.0314, "s", "31.4 ms"),
        (1.5, "s", "1.50 s"),
        (7200, "s", "2 h"),
        (0, "s", "0 s"),
        (3 * 2**20, "bytes", "3 MiB"),
        (1500, "Bps", "1.50 kB/s"),
        (0.98571, "percentunit", "98.6%"),
        (12345, "short", "12.3 K"),
        (6.2, "reqps", "6.20 req/s"),
        (3, "suffix: tasks", "3 tasks"),
        (14.4, "suffix:x", "14.4x"),
        (-0.5, "percentunit", "-50%"),
    ],
)
def test_a_number_and_its_unit(value: float, unit: str, text: str) -> None:
    assert units.write(value, unit) == text


def test_decimals_are_as_asked() -> None:
    assert units.write(0.98571, "percentunit", 2) == "98.57%"


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="furlong"):
        units.write(1, "furlong")
