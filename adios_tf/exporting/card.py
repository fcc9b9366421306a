"""The model card: what an export is, where it comes from, what it scored."""

import json
from pathlib import Path
from typing import Any

from adios_tf.exporting.saved_model import sizes
from adios_tf.pretrained import PretrainedModel
from adios_tf.reporting.tables import format_value
from adios_tf.run_folder import RESULTS, RunFolder

_SHOWN = {
    "dataset": "data set",
    "image_size": "image side S",
    "backbone": "encoder",
    "objective": "objective",
    "masking": "masking",
    "num_masks": "masks N",
    "fill": "fill",
    "recipe": "recipe",
    "source": "imported from",
    "step": "updates",
    "commit": "commit",
}


def facts(model: PretrainedModel, run: Path | str) -> dict[str, Any]:
    """Returns what is known of a model and its run: what model.json holds.

    Read from the run's folder are flags.txt, summary.json, environment.json and the results of
    evaluations, where they are.
    """
    folder = RunFolder(run)
    found: dict[str, Any] = {
        "info": model.info,
        "feature_dim": model.encoder.output_shape[-1],
        "parameters": sizes(model),
    }
    if lines := folder.flag_lines():
        found["flags"] = lines
    for name in ("summary", "environment"):
        if content := folder.read(getattr(folder, name)):
            found[name] = content
    evaluations = {done.name: folder.read(done / RESULTS) for done in folder.evaluated()}
    if evaluations:
        found["evaluations"] = evaluations
    return found


def write_card(model: PretrainedModel, run: Path | str, out: Path | str, files: list[str]) -> None:
    """Writes README.md and model.json into the export's folder `out`; see `facts`.

    `files` are the names of what was exported beside the SavedModel.
    """
    out, known = Path(out), facts(model, run)
    (out / "model.json").write_text(json.dumps(known | {"files": files}, indent=2) + "\n")
    (out / "README.md").write_text(_text(model, known, files))


def _text(model: PretrainedModel, known: dict[str, Any], files: list[str]) -> str:
    info = model.info
    title = f"{info.get('backbone', 'encoder')} pretrained on {info.get('dataset', 'unknown data')}"
    lines = [f"# {title}", "", "Made with adios_tf: features and masks of images.", ""]
    lines += ["## Facts", ""]
    rows = {text: info[key] for key, text in _SHOWN.items() if info.get(key) not in (None, "")}
    rows |= {"mean": info["mean"], "standard deviation": info["std"]}
    rows |= {"feature width D": known["feature_dim"]}
    rows |= {f"weights of the {part}": f"{n:,}" for part, n in known["parameters"].items()}
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]
    if info.get("untrained_parts"):
        parts = ", ".join(info["untrained_parts"])
        lines += [f"**Random weights**, since the imported file had none: {parts}.", ""]
    if "saved_model.pb" in files:
        lines += [_signatures(model), ""]
    others = [name for name in files if name != "saved_model.pb"]
    if others:
        lines += [
            "## Other files",
            "",
            f"{', '.join(f'`{name}`' for name in others)}: images float32 [B,S,S,3] in [0,1], "
            "normalization inside, no resizing (`.weights.h5`: weights alone).",
            "",
        ]
    lines += _results(known)
    if "flags" in known:
        lines += ["## Recipe", "", "```", *known["flags"], "```", ""]
    return "\n".join(lines)


def _signatures(model: PretrainedModel) -> str:
    """Returns card.md, what a SavedModel answers, less the rows of networks that are not there."""
    answers = {"| `masks": model.masker, "| `classify": model.classifier}
    missing = tuple(row for row, network in answers.items() if network is None)
    lines = Path(__file__).with_name("card.md").read_text(encoding="utf-8").splitlines()
    widths = {
        name: None if network is None else network.output_shape[-1]
        for name, network in zip(("slots", "classes"), answers.values(), strict=True)
    }
    text = "\n".join(line for line in lines if not line.startswith(missing))
    return text.format(dim=model.encoder.output_shape[-1], side=model.image_size, **widths)


def _results(known: dict[str, Any]) -> list[str]:
    lines = []
    summary = known.get("summary") or {}
    numbers = {k: v for k, v in summary.items() if isinstance(v, int | float)}
    if numbers:
        lines += ["## Results of the run", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {format_value(value)} |" for key, value in numbers.items()]
        lines += [""]
    for name, content in (known.get("evaluations") or {}).items():
        rows = content.get("rows")
        rows = rows if isinstance(rows, list) else []
        rows = [row for row in rows if isinstance(row, dict) and "value" in row]
        if rows:
            heading = ["| protocol | metric | value |", "|---|---|---|"]
            lines += [f"## Evaluation on {name}", "", *heading]
            lines += [
                f"| {row.get('protocol', '')} {row.get('variant') or ''} | {row.get('metric', '')} "
                f"| {format_value(row['value'])} |"
                for row in rows
            ]
            lines += [""]
    return lines
