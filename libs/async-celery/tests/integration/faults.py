"""How often the fault tests repeat: short by default, in full when asked.

What belongs here: the one setting, `FAULT_SCALE`.
"""

import os

FAULT_SCALE = float(os.environ.get("FAULT_SCALE", "0"))
"""0 for the short form of every test (the default), 1 for its full counts, as `./stack test --all` sets it."""


def scaled(short: int, full: int) -> int:
    """Return a repeat count between `short` (scale 0) and `full` (scale 1)."""
    return round(short + (full - short) * FAULT_SCALE)
