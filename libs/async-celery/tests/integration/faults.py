"""How often the fault tests repeat: short by default, in full when asked.

What belongs here: the two settings, `FAULT_SCALE` and `SOAK`.
"""

import os

FAULT_SCALE = float(os.environ.get("FAULT_SCALE", "0"))
"""0 for the short form of every test (the default), 1 for its full counts, as `./stack test --all` sets it."""

SOAK = bool(os.environ.get("SOAK"))
"""Whether what lasts longest may last for hours, as `./stack test --soak` says."""


def scaled(short: int, full: int) -> int:
    """Return a repeat count between `short` (scale 0) and `full` (scale 1)."""
    return round(short + (full - short) * FAULT_SCALE)
