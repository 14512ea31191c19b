"""Numbers in Grafana's units, as Grafana writes them.

What belongs here: the units that `panels.Unit` names.
"""

from dashboards.panels import Unit

_TIMES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_DECIMAL = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_DECIMAL_BYTES = ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))
_SUFFIX = "suffix:"


def write(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a number with its unit.

    Args:
        value: The number, in the unit's base.
        unit: Grafana's name of it.
        decimals: How many to show; None is as many as three digits need.

    Raises:
        ValueError: The unit is none of `panels.Unit`.
    """
    match Unit(unit):
        case Unit.SECONDS:
            return _scaled(value, _TIMES, "s", decimals)
        case Unit.BYTES:
            return _scaled(value, _BINARY, "B", decimals)
        case Unit.BYTES_PER_SECOND:
            return _scaled(value, _DECIMAL_BYTES, "B/s", decimals)
        case Unit.RATIO:
            return f"{_digits(value * 100, decimals)}%"
        case Unit.REQUESTS_PER_SECOND:
            return f"{_scaled(value, _DECIMAL, '', decimals)} req/s"
        case Unit.OPERATIONS_PER_SECOND:
            return f"{_scaled(value, _DECIMAL, '', decimals)} ops/s"
        case Unit.NUMBER:
            return _scaled(value, _DECIMAL, "", decimals)
        case _:
            return _digits(value, decimals) + unit.removeprefix(_SUFFIX)


def _scaled(value: float, scale: tuple[tuple[float, str], ...], base: str, decimals: int | None) -> str:
    for size, name in scale:
        if abs(value) >= size:
            return f"{_digits(value / size, decimals)} {name}"
    return f"{_digits(value, decimals)} {base}".strip()


def _digits(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"
