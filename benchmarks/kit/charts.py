"""How is a chart drawn? Bars in groups, with the spread of the runs, and what was hoped for as a line.

matplotlib is loaded here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.show import Chart, number

_COLOURS = ("#9aa5b1", "#2f6fb0", "#e0863a", "#4c9f70", "#8d6cab", "#c2504f")
_INK, _FAINT = "#1f2933", "#d9dee3"
_WIDTH = 0.78
"""Of a group, where the next begins at 1."""


def draw_chart(chart: Chart, folder: Path, footer: str) -> Path:
    """Draw it; the file.

    Args:
        chart: What to show.
        folder: Where the file goes.
        footer: Machine, commit and date.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plot: Any = plt  # its types are not complete
    figure, axes = plot.subplots(figsize=(max(6.4, 1.2 + 1.25 * len(chart.groups)), 4.2), dpi=150)
    each = _WIDTH / len(chart.series)
    for place, (name, values) in enumerate(chart.series.items()):
        at = [group - _WIDTH / 2 + each * (place + 0.5) for group in range(len(values))]
        axes.bar(at, values, each * 0.92, label=name, color=_COLOURS[place % len(_COLOURS)], zorder=2)
        tops = chart.high.get(name, values)
        for x, top, value in zip(at, tops, values, strict=True):
            axes.annotate(number(value), (x, top), (0, 3), textcoords="offset points", ha="center", fontsize=7, color=_INK)
        if name in chart.low:
            errors = [
                [value - low for value, low in zip(values, chart.low[name], strict=True)],
                [high - value for value, high in zip(values, chart.high[name], strict=True)],
            ]
            axes.errorbar(at, values, yerr=errors, fmt="none", ecolor=_INK, elinewidth=0.8, capsize=2, zorder=3)
    for name, value in chart.lines.items():
        axes.axhline(value, color="#c2504f", linewidth=1, linestyle="--", zorder=1)
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7, color="#c2504f"
        )
    axes.set_xticks(range(len(chart.groups)), chart.groups, fontsize=8)
    axes.set_ylabel(chart.unit, fontsize=8, color=_INK)
    axes.tick_params(axis="y", labelsize=8, colors=_INK)
    axes.set_title(chart.title, fontsize=10, loc="left", color=_INK, pad=28 if len(chart.series) > 1 else 10)
    if chart.logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.08 * _top(chart))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6, zorder=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if len(chart.series) > 1:
        places = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.4, "handlelength": 1.2}
        axes.legend(fontsize=8, frameon=False, ncols=len(chart.series), **places)
    figure.text(0.01, 0.01, footer, fontsize=6.5, color="#6b7785")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    path = folder / f"{chart.name}.png"
    figure.savefig(path)
    plot.close(figure)
    return path


def _top(chart: Chart) -> float:
    """The highest thing to show."""
    bars = [value for values in (*chart.series.values(), *chart.high.values()) for value in values]
    return max([*bars, *chart.lines.values(), 1e-9])
