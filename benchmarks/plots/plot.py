"""Draws one row's bars into one PNG: `python plot.py '{"file": ..., "title": ..., "plots": [...]}'`.

How it works: a panel per plot, a horizontal bar per contender with its figure beside it; ours and the limits are
coloured. A logarithmic scale where the figures span more than a factor of 30, which the axis then says.

What belongs here: drawing. What is drawn is decided by `ops/stack/bench/`.
"""

import json
import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

_OURS, _LIMIT, _OTHERS = "#d95f02", "#7f7f7f", "#4c78a8"
_WIDE = 30  # times the smallest figure


def _colour(name: str) -> str:
    if "(ours)" in name:
        return _OURS
    return _LIMIT if name.startswith("limit") else _OTHERS


def draw(file: str, title: str, plots: list[dict]) -> None:
    """Write the PNG."""
    plots = [plot for plot in plots if plot["bars"]]
    if not plots:
        return
    heights = [0.32 * len(plot["bars"]) + 0.8 for plot in plots]
    figure, axes = plt.subplots(
        len(plots), 1, figsize=(8, sum(heights) + 0.5), height_ratios=heights, squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    for axis, plot in zip(axes[:, 0], plots, strict=True):
        names = list(plot["bars"])[::-1]
        values = [plot["bars"][name] for name in names]
        bars = axis.barh(names, values, color=[_colour(name) for name in names])
        axis.bar_label(bars, labels=[f"{value:,.4g}" for value in values], padding=3, fontsize=8)
        positive = [value for value in values if value > 0]
        is_wide = len(positive) == len(values) and max(positive) > _WIDE * min(positive)
        if is_wide:
            axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.set_title(plot["title"] + (" (logarithmic)" if is_wide else ""), fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    draw(**json.loads(sys.argv[1]))
