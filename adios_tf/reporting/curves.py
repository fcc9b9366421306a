"""Training curves: small multiples of an epoch's numbers, healthy ranges shaded."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from adios_tf.reporting import palette
from adios_tf.reporting.health import range_text, rule_of
from adios_tf.reporting.tables import is_number


@dataclass(frozen=True)
class Chart:
    """One small picture: the metrics whose names match, in one set of axes."""

    title: str
    pattern: str  # regular expression for whole metric names
    share: bool = False  # values are parts of 1 and shown in percent
    zero: bool = False  # the axis starts at 0


SECTIONS: dict[str, tuple[Chart, ...]] = {
    "Training": (
        Chart("distance between views", r"(val_)?(distance|loss)(_.*)?"),
        Chart("masker's objective", r"masker_objective"),
        Chart("mask penalty", r"(.*_)?penalty(_.*)?|sparsity|entropy"),
        Chart("probe loss", r"probe_loss"),
    ),
    "What was learned": (
        Chart("kNN accuracy", r"knn(_.*)?|.*_knn", share=True),
        Chart("linear probe accuracy", r"(probe|linear)_(.*_)?acc(uracy)?(_.*)?", share=True),
        Chart("mask quality", r"mask_(ari|iou|msc|ssc)(_.*)?", zero=True),
    ),
    "Features": (
        Chart("feature spread", r"feature_spread"),
        Chart("effective rank", r"effective_rank"),
        Chart("alignment", r"alignment"),
        Chart("uniformity", r"uniformity"),
    ),
    "Masks": (
        Chart("coverage", r"coverage_\d+_mean", share=True),
        Chart("overlap", r"overlap", zero=True),
        Chart("sharpness", r"mask_sharpness", zero=True),
        Chart("variation", r"mask_variation", zero=True),
    ),
    "Pace": (
        Chart("gradient norms", r".*_gradient_norm"),
        Chart("learning rates", r"(.*_)?(learning_rate|lr)", zero=True),
        Chart("EMA momentum", r"(ema_)?(momentum|tau)"),
        Chart("images per second", r"images_per_second", zero=True),
        Chart("peak memory (MB)", r"peak_memory_mb", zero=True),
    ),
}
COLUMNS = 4

_LIGHT = {"paper": "#ffffff", "ink": "#222222", "grid": "#dddddd", "good": "#00795a"}
_DARK = {"paper": "#1b1d21", "ink": "#dcdcdc", "grid": "#3a3d43", "good": "#2fbf91"}
_DARK_LINES = {"#0072B2": "#4aa8e0", "#332288": "#8878e0", "#882255": "#d06fa0"}

Points = list[tuple[float, float]]
Series = Mapping[str, Points]


def series(records: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Returns {metric: [(epoch, value)]} of all numbers in records that have an epoch.

    A later record of the same epoch wins; what is not a finite number is a gap.
    """
    found: dict[str, dict[float, float]] = {}
    for record in records:
        epoch = record.get("epoch")
        if not is_number(epoch):
            continue
        for name, value in record.items():
            if name != "epoch" and is_number(value):
                found.setdefault(name, {})[float(epoch)] = float(value)
    return {name: sorted(points.items()) for name, points in found.items()}


def natural(name: str) -> list[Any]:
    """Returns a key that sorts names as people do: 9 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def sections(names: Sequence[str]) -> dict[str, list[tuple[Chart, list[str]]]]:
    """Returns {heading: charts with their metrics}, leaving out what has nothing to show."""
    found: dict[str, list[tuple[Chart, list[str]]]] = {}
    for heading, charts in SECTIONS.items():
        for chart in charts:
            members = sorted((n for n in names if re.fullmatch(chart.pattern, n)), key=natural)
            if members:
                found.setdefault(heading, []).append((chart, members))
    return found


def draw_curves(
    records: Sequence[Mapping[str, Any]],
    path: Path | str,
    feature_dim: int | None = None,
    dark: bool = False,
) -> Path | None:
    """Draws the curves of a run as one PNG, healthy ranges in green, light lines on `dark` ground.

    `records` is what `read_jsonl` returns; each has "epoch" and numbers. `feature_dim` is for the
    healthy ranges, see `health.verdicts`. Returns the path, or None where there is nothing to draw;
    then nothing is written.
    """
    data = series(records)
    found = sections(list(data))
    if not found:
        return None
    num_masks = sum(bool(re.fullmatch(r"coverage_\d+_mean", name)) for name in data)
    theme = _DARK if dark else _LIGHT
    columns = min(COLUMNS, max(map(len, found.values())))
    heights = [math.ceil(len(charts) / columns) for charts in found.values()]
    size = (2.9 * columns, 2.45 * sum(heights))
    figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor=theme["paper"])
    figure.get_layout_engine().set(h_pad=0.09)
    rows = iter(figure.subplots(sum(heights), columns, squeeze=False))
    for height, (heading, charts) in zip(heights, found.items(), strict=True):
        grid = [axes for _ in range(height) for axes in next(rows)]
        for axes in grid[len(charts) :]:
            axes.set_visible(False)
        for axes, (chart, names) in zip(grid, charts, strict=False):
            _chart(axes, chart, names, data, dark)
            rule = rule_of(names[0])
            known = rule is not None and num_masks >= rule.needs_slots
            healthy = rule.range(num_masks, feature_dim or 0) if known else (None, None)
            _limits(axes, chart, *healthy, theme["good"])
        grid[0].annotate(
            heading,
            (0, 1),
            (-28, 24),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=11,
            weight="bold",
            color=theme["ink"],
        )
    return save_figure(figure, path)


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Writes a PNG, and the folders that it lies in."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _chart(axes: Axes, chart: Chart, names: Sequence[str], data: Series, dark: bool) -> None:
    theme = _DARK if dark else _LIGHT
    axes.set_facecolor(theme["paper"])
    axes.set_title(chart.title, fontsize=9, loc="left", color=theme["ink"])
    axes.set_xlabel("epoch", fontsize=7.5, color=theme["ink"])
    axes.tick_params(labelsize=7.5, colors=theme["ink"], length=2)
    axes.grid(color=theme["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme["grid"])
    if chart.share:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    else:
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    for index, name in enumerate(names):
        color = palette.slot(index)
        color = _DARK_LINES.get(color, color) if dark else color
        _line(axes, name, data, index, color, shade=0.25 / math.sqrt(len(names)))
    if len(names) > 1:
        legend = axes.legend(fontsize=7, labelcolor=theme["ink"], ncols=1 + (len(names) > 4))
        legend.get_frame().set(facecolor=theme["paper"], edgecolor="none", alpha=0.75)


def _line(axes: Axes, name: str, data: Series, index: int, color: str, shade: float) -> None:
    epochs, values = zip(*data[name], strict=True)
    style = ("-", "--", "-.", ":")[index // len(palette.SLOTS) % 4]
    marker = "o" if len(epochs) <= 12 else None
    label = re.sub(r"coverage_(\d+)_mean", r"slot \1", name).replace("_", " ")
    axes.plot(epochs, values, style, color=color, marker=marker, ms=3, lw=1.6, label=label)
    if name.startswith("coverage_"):
        low, high = (data.get(name.replace("_mean", end), []) for end in ("_min", "_max"))
        if low and [epoch for epoch, _ in low] == [epoch for epoch, _ in high]:
            edges = [[value for _, value in band] for band in (low, high)]
            axes.fill_between([epoch for epoch, _ in low], *edges, color=color, alpha=shade, lw=0)


def _limits(axes: Axes, chart: Chart, low: float | None, high: float | None, color: str) -> None:
    """Sets the vertical range, shades and names its healthy part, from low to high."""
    bottom, top = axes.dataLim.intervaly
    # An edge is drawn where it is crossed or near; a far one would flatten the curve.
    reach = 1.5 * (top - bottom)
    edges = [low] if low is not None and low >= bottom - reach else []
    edges += [high] if high is not None and high <= top + reach else []
    bottom, top = min([bottom, *edges]), max([top, *edges])
    if chart.zero:
        bottom = min(bottom, 0.0)
    room = 0.06 * (top - bottom) or 0.05 * abs(top) or 0.05
    top += room
    bottom -= 0.0 if chart.zero and bottom == 0 else room
    axes.set_ylim(bottom, top)
    if low is None and high is None:
        return
    words = range_text(low, high, percent=chart.share)
    axes.set_title(f"healthy: {words}", fontsize=7, loc="right", color=color)
    span = (bottom if low is None else max(low, bottom), top if high is None else min(high, top))
    if span[0] < span[1]:
        axes.axhspan(*span, color=color, alpha=0.10, lw=0, zorder=0)
    for edge in edges:
        axes.axhline(edge, color=color, lw=0.8, ls=(0, (4, 3)), zorder=0.5)
