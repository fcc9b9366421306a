"""Pictures of evaluation results, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adios_tf.evaluation.significance import Comparison
from adios_tf.reporting import palette
from adios_tf.reporting.curves import save_figure


def plot_rows(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws every row of a results table as a bar with its spread, one color per protocol."""
    protocols = list(dict.fromkeys(record["protocol"] for record in records))
    figure = Figure((9, 1.2 + 0.28 * len(records)), layout="constrained")
    axes = figure.subplots()
    for place, record in enumerate(records):
        color = palette.slot(protocols.index(record["protocol"]))
        axes.barh(place, 100 * record["value"], color=color)
        if record["std"] is not None:
            axes.errorbar(100 * record["value"], place, xerr=100 * record["std"], color="black")
        where = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(
            f"{100 * record['value']:.1f}", (100 * max(record["value"], 0), place), **where
        )
    axes.set_yticks(range(len(records)), [record["label"] for record in records], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("value x 100")
    axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path)


def plot_corruptions(clean: float, accuracy: Mapping[tuple[str, int], float], path: Path) -> Path:
    """Draws accuracy against severity, one line per corruption, and the clean accuracy."""
    figure = Figure((7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(100 * clean, color="black", linestyle=":", label="clean")
    for number, name in enumerate(dict.fromkeys(name for name, _ in accuracy)):
        points = sorted((level, v) for (other, level), v in accuracy.items() if other == name)
        levels, values = zip(*points, strict=True)
        color = palette.slot(number)
        axes.plot(levels, 100 * np.array(values), marker="o", color=color, label=name)
    axes.set_xticks(sorted({level for _, level in accuracy}))
    axes.set_xlabel("severity")
    axes.set_ylabel("top-1 accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return save_figure(figure, path)


def plot_comparison(comparisons: Sequence[Comparison], path: Path) -> Path:
    """Draws one panel per row: mean and spread of each group, and every run as a point."""
    rows = list(dict.fromkeys(c.row for c in comparisons))
    groups = list(dict.fromkeys(c.group for c in comparisons))
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure((3.2 * columns, 0.6 + 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, row in zip(panels, rows, strict=False):
        for place, one in enumerate(c for c in comparisons if c.row == row):
            color = palette.slot(groups.index(one.group))
            axes.bar(place, 100 * one.mean, color=color, alpha=0.6, label=one.group)
            axes.plot([place] * one.runs, 100 * np.array(one.values), "o", color=color, ms=4)
            if one.runs > 1:
                axes.errorbar(place, 100 * one.mean, 100 * one.std, color="black", capsize=4)
            if one.p < 0.05:
                axes.annotate("*", (place, 100 * max(one.values)), ha="center")
        values = [100 * v for c in comparisons if c.row == row for v in c.values]
        room = max(0.5, np.ptp(values))
        least = max(0.0, min(values) - room) if min(values) >= 0 else None
        axes.set_ylim(least, max(values) + room)
        axes.set_title(row, fontsize=8)
        axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    figure.suptitle("value x 100; * differs from the first, p < 0.05", fontsize=8)
    return save_figure(figure, path)


def plot_study(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draws kNN and linear accuracy of each method: mean, spread, every run as a point."""
    figure = Figure((8, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for number, (name, label) in enumerate((("knn", "kNN"), ("linear", "linear"))):
        color, shift = palette.slot(number), 0.3 * number - 0.15
        for place, row in enumerate(rows):
            mean, std = 100 * row[name]["mean"], 100 * (row[name]["std"] or 0)
            axes.barh(place + shift, mean, 0.3, color=color, label=label if not place else None)
            points = 100 * np.array(row[name]["values"])
            axes.plot(points, [place + shift] * len(points), "k.", ms=3)
            axes.errorbar(mean, place + shift, xerr=std, color="black", lw=1)
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("top-1 accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    return save_figure(figure, path)
