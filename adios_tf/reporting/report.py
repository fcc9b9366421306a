"""`report.html`: one file that says what a run was, what it learned and whether it is well."""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adios_tf.errors import UserError
from adios_tf.reporting.curves import draw_curves, natural
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
from adios_tf.reporting.tables import format_value, is_number, write_text
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
Facts = Mapping[str, Any]
Records = Sequence[Facts]
RECIPE = ("dataset", "image_size", "backbone", "objective", "masking", "num_masks", "fill")


def write_report(run_dir: Path | str) -> Path:
    """Writes `run_dir/report.html` from what the run has left so far, and returns its path.

    Reads flags.txt, metrics.jsonl, summary.json, environment.json and pictures/*.png, none of which
    needs to be there: what is missing is said so in its section. Mask panels are the pictures whose
    names begin with `mask`, in the order of their numbers. `UserError` where there is no such
    folder, or one of the files is not what it should be.
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
    return float(value) if is_number(value) else None


def _header(name: str, settings: Mapping[str, str], records: Records, summary: Facts) -> str:
    state, kind = ("finished", "good") if summary else ("unfinished", "")
    done = max((e for r in records if (e := _number(r.get("epoch"))) is not None), default=None)
    planned = settings.get("epochs")
    parts = [f"{key} {settings[key]}" for key in RECIPE if settings.get(key)]
    if done is not None:
        parts.append(f"epoch {done:g}" + (f" of {planned}" if planned else ""))
    badge = f'<span class="badge {kind}">{state}</span>'
    words = paragraph(" · ".join(parts), "soft wide") if parts else ""
    return f"<header><h1>{escape(name)} {badge}</h1>{words}</header>"


def _headline(summary: Facts) -> str:
    if not summary:
        words = "No summary.json yet: it is written at the end."
        return section("Results", paragraph(words, "note"))
    rows = []
    for key, words in {**ACCURACIES, **SCORES}.items():
        if (value := _number(summary.get(key))) is not None:
            shown = f"{100 * value:.1f} %" if key in ACCURACIES else f"{value:.3f}"
            rows.append((words, Cell(shown, "number"), Cell("", "bar", value)))
    parts = []
    if rows:
        parts.append(table(("measured", Cell("value", "number"), Cell("0 to 1")), rows))
    parts.append(_gain(summary))
    costs = []
    for key, (words, unit) in COSTS.items():
        if (value := _number(summary.get(key))) is not None:
            shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
            costs.append(f"{words} {shown} {unit}".strip())
    if costs:
        parts.append(paragraph(" · ".join(costs), "soft"))
    known = {*ACCURACIES, *SCORES, *COSTS}
    if rest := [(key, _shown(value)) for key, value in summary.items() if key not in known]:
        parts.append(folded(f"{len(rest)} more in summary.json", table(("name", "value"), rest)))
    return section("Results", *parts)


def _gain(summary: Facts) -> str:
    names = ("trained", "untrained", "pixels")
    trained, before, pixels = (_number(summary.get(f"knn_{name}")) for name in names)
    if trained is None or before is None:
        return ""
    words = f"Training changed kNN accuracy by {100 * (trained - before):+.1f} points"
    if pixels is not None:
        words += f"; the encoder is {100 * (trained - pixels):+.1f} points from raw pixels"
    return paragraph(words + ".")


def _health(records: Records, summary: Facts) -> str:
    width, judged = _feature_dim(summary, records), []
    for record in reversed(records):
        if judged := verdicts(record, feature_dim=width):
            break
    else:
        return section("Health", paragraph("No health metrics recorded yet.", "note"))
    bad, well = ([one for one in judged if one.ok == ok] for ok in (False, True))
    epoch = f"epoch {format_value(record.get('epoch'))}"
    words = f"{len(bad)} of {len(judged)} are outside" if bad else f"all {len(judged)} are healthy"
    parts = [paragraph(f"Judged without labels at {epoch}: {words}.")]
    if bad:
        parts.append(_verdict_table(bad, "what to do"))
    if well:
        parts.append(folded(f"{len(well)} healthy", _verdict_table(well, "what it is")))
    return section("Health", *parts)


def _verdict_table(judged: Sequence[Verdict], heading: str) -> str:
    rows = []
    for one in judged:
        value = f"{one.value:.4g}" if math.isfinite(one.value) else "none"
        numbers = Cell(value, "number"), Cell(range_text(*one.range), "number")
        rows.append((one.metric, *numbers, one.advice or one.meaning))
    return table(("metric", Cell("value", "number"), Cell("healthy", "number"), heading), rows)


def _feature_dim(summary: Facts, records: Records) -> int | None:
    value = _number(summary.get("feature_dim"))
    value = _number(records[-1].get("feature_dim")) if value is None and records else value
    return int(value) if value is not None else None


def _curves(records: Records, summary: Facts) -> str:
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
    files = filter(Path.is_file, folder.glob("mask*.png"))
    files = sorted(files, key=lambda file: natural(file.stem))
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


def _origin(lines: Sequence[str], environment: Facts) -> str:
    parts = []
    if environment.get("command"):
        parts.append(code(_shown(environment["command"])))
    long = {k: v for k, v in environment.items() if isinstance(v, Mapping)}
    plain = {k: v for k, v in environment.items() if k not in ("command", *long)}
    if plain:
        parts.append(table(("fact", "value"), [(k, _shown(v)) for k, v in plain.items()]))
    for key, value in long.items():
        rows = [(k, _shown(v)) for k, v in value.items()]
        parts.append(folded(f"{key} ({len(rows)})", table(("name", "value"), rows)))
    if lines:
        words = f"flags.txt ({len(lines)} settings, usable as a flagfile)"
        parts.append(folded(words, code("\n".join(lines))))
    files = {"environment.json": environment, "flags.txt": lines}
    if missing := [name for name, found in files.items() if not found]:
        parts.append(paragraph(f"Not there: {', '.join(missing)}.", "note"))
    return section("How it was made", *parts)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return json.dumps(value)
    return format_value(value, digits=4)


def _all_metrics(records: Records) -> str:
    if not records:
        return ""
    names = list(dict.fromkeys(name for record in records for name in record))
    names.sort(key=lambda name: name != "epoch")
    rows = [[Cell(_shown(record.get(name)), "number") for name in names] for record in records]
    grid = table([Cell(name, "number") for name in names], rows, tall=True)
    return section("All metrics", folded(f"{len(records)} epochs, {len(names)} numbers each", grid))
