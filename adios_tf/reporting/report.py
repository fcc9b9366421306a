"""`report.html`: one file that says what a run was, what it learned and whether it is well."""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adios_tf.errors import UserError
from adios_tf.reporting.curves import draw_curves
from adios_tf.reporting.health import Verdict, range_text, verdicts
from adios_tf.reporting.page import (
    Cell,
    code,
    escape,
    folded,
    page,
    paragraph,
    picture,
    section,
    table,
)
from adios_tf.reporting.tables import format_value, write_text
from adios_tf.run_folder import RunFolder

MOST_PANELS = 10  # embedded; a long run's pictures would make a page that no browser likes

# summary.json's accuracies, parts of 1.
ACCURACIES = {
    "knn_pixels": "kNN on raw pixels",
    "knn_untrained": "kNN on the untrained encoder",
    "knn_trained": "kNN on the trained encoder",
    "probe_accuracy": "linear probe, online",
    "linear_accuracy": "linear probe",
}
# Scores from 0 to 1 that are no percentages.
SCORES = {
    "mask_ari": "learned masks against ground truth (ARI)",
    "mask_ari_random": "random masks against ground truth (ARI)",
}
COSTS = {
    "epochs": ("epochs", ""),
    "seconds": ("time", "s"),
    "images_per_second": ("speed", "images/s"),
    "peak_memory_mb": ("peak memory", "MB"),
}
RECIPE = ("dataset", "image_size", "backbone", "objective", "masking", "num_masks", "fill")


def write_report(run_dir: Path | str) -> Path:
    """Writes `run_dir/report.html` from what the run has left so far.

    Reads flags.txt, metrics.jsonl, summary.json, environment.json and pictures/*.png, none of
    which needs to be there: what is missing is said so in its section. Mask panels are the
    pictures whose names begin with `mask`, in the order of their numbers.

    Args:
      run_dir: the run's folder.

    Returns:
      The page's path.

    Raises:
      UserError: no such folder, or one of the files is not what it should be.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a run folder: name the --run_dir of a pretraining")
    run = RunFolder(run_dir)
    lines, records = run.flag_lines(), run.records()
    summary, environment = run.read(run.summary), run.read(run.environment)
    name = run_dir.resolve().name
    text = page(
        f"{name} - adios_tf run",
        _header(name, run.settings(), records, summary),
        _headline(summary),
        _panels(run.pictures),
        _health(records, summary),
        _curves(records, summary),
        _origin(lines, environment),
        _all_metrics(records),
    )
    return write_text(run.report, text)


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def _header(
    name: str,
    settings: Mapping[str, str],
    records: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> str:
    state, kind = ("finished", "good") if summary else ("unfinished", "")
    done = max((e for r in records if (e := _number(r.get("epoch"))) is not None), default=None)
    planned = settings.get("epochs")
    parts = [f"{key} {settings[key]}" for key in RECIPE if settings.get(key)]
    if done is not None:
        parts.append(f"epoch {done:g}" + (f" of {planned}" if planned else ""))
    badge = f'<span class="badge {kind}">{state}</span>'
    words = paragraph(" · ".join(parts), "soft wide") if parts else ""
    return f"<header><h1>{escape(name)} {badge}</h1>{words}</header>"


def _headline(summary: Mapping[str, Any]) -> str:
    if not summary:
        return section(
            "Results", paragraph("No summary.json yet: it is written at the end.", "note")
        )
    rows = []
    for key, words in {**ACCURACIES, **SCORES}.items():
        value = _number(summary.get(key))
        if value is not None:
            shown = f"{100 * value:.1f} %" if key in ACCURACIES else f"{value:.3f}"
            rows.append((words, Cell(shown, "number"), Cell("", "bar", value)))
    parts = []
    if rows:
        parts.append(table(("measured", Cell("value", "number"), Cell("0 to 1")), rows))
    gain = _gain(summary)
    if gain:
        parts.append(gain)
    costs = []
    for key, (words, unit) in COSTS.items():
        value = _number(summary.get(key))
        if value is not None:
            shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
            costs.append(f"{words} {shown} {unit}".strip())
    if costs:
        parts.append(paragraph(" · ".join(costs), "soft"))
    rest = [k for k in summary if k not in {*ACCURACIES, *SCORES, *COSTS}]
    if rest:
        rows = [(key, Cell(_shown(summary[key]))) for key in rest]
        parts.append(folded(f"{len(rest)} more in summary.json", table(("name", "value"), rows)))
    return section("Results", *parts)


def _gain(summary: Mapping[str, Any]) -> str:
    trained, before, pixels = (
        _number(summary.get(f"knn_{name}")) for name in ("trained", "untrained", "pixels")
    )
    if trained is None or before is None:
        return ""
    words = f"Training changed kNN accuracy by {100 * (trained - before):+.1f} points"
    if pixels is not None:
        words += f"; the encoder is {100 * (trained - pixels):+.1f} points from raw pixels"
    return paragraph(words + ".")


def _health(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    judged = []
    for record in reversed(records):
        judged = verdicts(record, feature_dim=_feature_dim(summary, records))
        if judged:
            break
    if not judged:
        return section("Health", paragraph("No health metrics recorded yet.", "note"))
    bad = [verdict for verdict in judged if not verdict.ok]
    epoch = f"epoch {format_value(record.get('epoch'))}"
    words = f"{len(bad)} of {len(judged)} are outside" if bad else f"all {len(judged)} are healthy"
    parts = [paragraph(f"Judged without labels at {epoch}: {words}.")]
    if bad:
        parts.append(_verdict_table(bad, "what to do"))
    if len(bad) < len(judged):
        well = [verdict for verdict in judged if verdict.ok]
        parts.append(folded(f"{len(well)} healthy", _verdict_table(well, "what it is")))
    return section("Health", *parts)


def _verdict_table(judged: Sequence[Verdict], heading: str) -> str:
    rows = [
        (
            verdict.metric,
            Cell(f"{verdict.value:.4g}" if math.isfinite(verdict.value) else "none", "number"),
            Cell(range_text(*verdict.range), "number"),
            verdict.advice or verdict.meaning,
        )
        for verdict in judged
    ]
    return table(("metric", Cell("value", "number"), Cell("healthy", "number"), heading), rows)


def _feature_dim(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> int | None:
    value = _number(summary.get("feature_dim"))
    value = _number(records[-1].get("feature_dim")) if value is None and records else value
    return int(value) if value is not None else None


def _curves(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    width = _feature_dim(summary, records)
    with tempfile.TemporaryDirectory() as folder:
        light, dark = Path(folder, "light.png"), Path(folder, "dark.png")
        if draw_curves(records, light, feature_dim=width) is None:
            return section("Curves", paragraph("No epoch recorded yet.", "note"))
        draw_curves(records, dark, feature_dim=width, dark=True)
        alt = "Training curves by epoch; the same numbers are in the table of all metrics."
        caption = "Green: healthy range. Coverage: mean over images, shaded from min to max."
        return section("Curves", picture(light, alt, caption, "curves", dark))


def _panels(folder: Path) -> str:
    def order(file: Path) -> list[Any]:
        return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.stem)]

    files = sorted(filter(Path.is_file, folder.glob("mask*.png")), key=order)
    if not files:
        return section("Masks", paragraph("No mask pictures: none are drawn yet.", "note"))

    def panel(file: Path) -> str:
        number = re.findall(r"\d+", file.stem)
        when = f"epoch {int(number[-1])}" if number else file.stem.replace("_", " ")
        alt = (
            f"Masks at {when}: one row per image; columns: the image, each mask (white is "
            "hidden), the image without each mask's pixels, segments, ground truth if known."
        )
        return picture(file, alt, when)

    between = files[1:-1]
    most = MOST_PANELS - 2
    if len(between) > most:
        # Evenly spaced, so that the progress can still be followed.
        between = [between[round(n * (len(between) - 1) / (most - 1))] for n in range(most)]
    parts = [panel(files[0])]
    parts += [panel(files[-1])] if len(files) > 1 else []
    if between:
        left = len(files) - 2 - len(between)
        words = f"{len(between)} in between"
        words += f" ({left} more in the folder pictures)" if left else ""
        parts.append(folded(words, *map(panel, between)))
    return section("Masks", *parts)


def _origin(lines: Sequence[str], environment: Mapping[str, Any]) -> str:
    parts = []
    if environment.get("command"):
        parts.append(code(_shown(environment["command"])))
    plain = {k: v for k, v in environment.items() if k != "command" and not _is_long(v)}
    if plain:
        parts.append(table(("fact", "value"), [(k, _shown(v)) for k, v in plain.items()]))
    for key, value in environment.items():
        if _is_long(value):
            rows = [(k, _shown(v)) for k, v in value.items()]
            parts.append(folded(f"{key} ({len(rows)})", table(("name", "value"), rows)))
    if lines:
        words = f"flags.txt ({len(lines)} settings, usable as a flagfile)"
        parts.append(folded(words, code("\n".join(lines))))
    missing = [
        name
        for name, found in (("environment.json", environment), ("flags.txt", lines))
        if not found
    ]
    if missing:
        parts.append(paragraph(f"Not there: {', '.join(missing)}.", "note"))
    return section("How it was made", *parts)


def _is_long(value: Any) -> bool:
    return isinstance(value, Mapping)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return json.dumps(value)
    return format_value(value, digits=4)


def _all_metrics(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return ""
    names = list(dict.fromkeys(name for record in records for name in record))
    names.sort(key=lambda name: name != "epoch")
    rows = [[Cell(_shown(record.get(name)), "number") for name in names] for record in records]
    grid = table([Cell(name, "number") for name in names], rows, tall=True)
    return section("All metrics", folded(f"{len(records)} epochs, {len(names)} numbers each", grid))
