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
_SIGNATURES = """\
| signature | input | outputs |
|---|---|---|
| `serving_default` | `images` float32 [B,H,W,3] in [0,1] | `features` [B,{dim}] |
| `embed_uint8` | `images` uint8 [B,H,W,3] | `features` |
| `embed_bytes` | `bytes` string [B], image files | `features`, `ok` [B] |
"""
_MASKS = """\
| `masks` | `images` float32 [B,H,W,3] in [0,1] | `masks` [B,{side},{side},{slots}], `occluded` \
[B,{slots},{side},{side},3] |
| `masks_uint8` | `images` uint8 [B,H,W,3] | the same |
| `masks_bytes` | `bytes` string [B] | the same, `ok` [B] |
"""
_CLASSIFY = """\
| `classify` | `images` float32 [B,H,W,3] in [0,1] | `logits`, `probabilities` [B,{classes}] |
| `classify_uint8` | `images` uint8 [B,H,W,3] | the same |
| `classify_bytes` | `bytes` string [B] | the same, `ok` [B] |
"""


def facts(model: PretrainedModel, run: Path | str) -> dict[str, Any]:
    """Returns what is known of a model and its run: what model.json holds.

    Args:
      model: from `adios_tf.load`.
      run: the folder it came from; read are flags.txt, summary.json, environment.json and the
        results of evaluations, where they are.
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
    """Writes README.md and model.json into the export's folder.

    Args:
      model, run: see `facts`.
      out: the folder.
      files: names of what was exported beside the SavedModel.
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
        lines += ["## Signatures", "", _signatures(model), *_usage(model)]
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
    text = _SIGNATURES.format(dim=model.encoder.output_shape[-1])
    if model.masker is not None:
        text += _MASKS.format(side=model.image_size, slots=model.masker.output_shape[-1])
    if model.classifier is not None:
        text += _CLASSIFY.format(classes=model.classifier.output_shape[-1])
    return text


def _usage(model: PretrainedModel) -> list[str]:
    side = model.image_size
    return [
        f"Images of any size are resized to {side}x{side} (bicubic, antialiased, both sides on "
        "their own) and normalized inside. Masks are soft, in [0,1], 1 = hidden; occluded copies "
        "are in [0,1], with the data set's mean color where a mask hides. Files that cannot be "
        "decoded have `ok` false and rows of zeros; the others are not affected. JPEG files are "
        "turned upright by their EXIF orientation; of an animation the first picture is taken.",
        "",
        "```python",
        "import tensorflow as tf",
        "",
        'embed = tf.saved_model.load("this folder").signatures["embed_bytes"]',
        'answer = embed(bytes=tf.constant([open("image.jpg", "rb").read()]))',
        'print(answer["ok"], answer["features"])',
        "```",
        "",
    ]


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
