"""Official PyTorch checkpoints into run folders."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.exporting.torch_file import read_torch_checkpoint
from adios_tf.exporting.torch_layout import Part, Plan, adios_plan, layout_of, moco_plan
from adios_tf.nets.torch_weights import official_mapping, weights_from_official
from adios_tf.run_folder import RunFolder

FACTS, KEPT, FLAGS = "torch.json", "torch.npz", "pretrain.flags"
# What --args says under other names than our flags do.
_FLAG_NAMES = {
    "temperature": "temperature",
    "proj_hidden_dim": "hidden_dim",
    "output_dim": "output_dim",
    "pred_hidden_dim": "predictor_dim",
    "N": "num_masks",
    "mask_fbase": "masker_base",
    "unet_norm": "masker_norm",
    "num_blocks": "masker_blocks",
    "alpha_sparsity": "sparsity_weight",
}


class Imported(NamedTuple):
    """What an import did.

    Attributes:
      run: the run folder.
      parts: {part: number of arrays that it took}.
      fresh: parts that the checkpoint lacks and that have random weights.
      unmatched: names of arrays that none of our networks has a place for. They are kept beside
        the model, for the way back.
      left: entries of the file that were not taken along (optimizer states, ...).
    """

    run: Path
    parts: dict[str, int]
    fresh: tuple[str, ...]
    unmatched: tuple[str, ...]
    left: tuple[str, ...]


def import_torch(
    checkpoint: str | Path,
    out: str | Path,
    args: str | Path | None = None,
    *,
    image_size: int = 224,
    dataset: str = "imagenet2012",
    allow_missing: Sequence[str] = (),
) -> Imported:
    """Makes a run folder out of an official checkpoint of ADIOS, or of MoCo v2 or MixMask.

    Args:
      checkpoint: the file; nothing in it is ever run.
      out: the run folder to write: `model/`, `pretrain.flags` (settings to train on with), and
        what the way back needs.
      args: ADIOS's `args.json`, which describes the networks; MoCo's files describe themselves.
      image_size, dataset: of a MoCo checkpoint, which does not tell them.
      allow_missing: parts that may be absent from the file and are then drawn anew.

    Raises:
      UserError: an unreadable or refused file, another architecture than described, names that
        are missing, or a folder that holds something already.
    """
    out = Path(out).expanduser()
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder for the import")
    if unknown := set(allow_missing) - set(pretrained.PARTS):
        raise UserError(
            f"--allow_missing={sorted(unknown)[0]}: parts are {', '.join(pretrained.PARTS)}"
        )
    content = read_torch_checkpoint(checkpoint)
    state = _state_dict(content, checkpoint)
    settings = _read_args(args) if args else {}
    keras.utils.set_random_seed(0)
    if layout_of(list(state)) == "moco":
        plan = moco_plan(content.get("arch"), state, image_size, dataset)
    elif not args:
        raise UserError("an ADIOS checkpoint needs --args: the args.json that lies beside it")
    else:
        plan = adios_plan(settings, list(state))
    used, fresh = _fill(plan, state, allow_missing)
    unmatched = tuple(name for name in state if name not in set().union(*used.values()))
    kept = {n: a for n, a in state.items() if n in unmatched or n.endswith("num_batches_tracked")}
    entries = {k: v for k, v in content.items() if isinstance(v, str | int | float)}

    info = plan.info | {"source": Path(checkpoint).name, "untrained_parts": list(fresh)}
    pretrained.save(RunFolder(out).model, info, **{p.name: _as_saved(p) for p in plan.parts})
    facts = {
        "layout": plan.layout,
        "names": list(state),
        "dtypes": {name: array.dtype.str for name, array in state.items()},
        "kept": list(kept),
        "entries": entries,
        "untrained": list(fresh),
        "prefixes": {p.name: p.prefix for p in plan.parts},
    }
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    np.savez(out / KEPT, **{f"array_{i}": array for i, array in enumerate(kept.values())})
    (out / FLAGS).write_text("\n".join(_flags(plan, settings)) + "\n")
    left = tuple(k for k in content if k != "state_dict" and k not in entries)
    counts = {name: len(names) for name, names in used.items()}
    return Imported(out, counts, fresh, unmatched, left)


def _as_saved(part: Part) -> keras.Model:
    if part.name != "masker":
        return part.model
    images = keras.Input(part.model.input_shape[1:], name="image")
    masks = keras.layers.Softmax(axis=-1, name="masks")(part.model(images))
    return keras.Model(images, masks, name="masker")


def _state_dict(content: Any, path: str | Path) -> dict[str, np.ndarray]:
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path} has no state_dict: is it a training checkpoint?")
    for name, array in state.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise UserError(f"{path}: its state_dict holds {name!r}, which is no tensor")
    return dict(state)


def _read_args(path: str | Path) -> dict[str, Any]:
    try:
        settings = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read --args={path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--args={path} is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"--args={path} does not hold settings by name")
    return settings


def _fill(
    plan: Plan, state: Mapping[str, np.ndarray], allow_missing: Sequence[str]
) -> tuple[dict[str, set[str]], tuple[str, ...]]:
    """Sets the weights; returns the names each part used, and the parts that stay random."""
    wanted = {
        part.name: {e.official_name for e in official_mapping(part.model, part.kind, part.prefix)}
        for part in plan.parts
    }
    absent = {p.name for p in plan.parts if not _holds(state, p)}
    fresh = tuple(name for name in wanted if name in allow_missing and name in absent)
    missing = [n for part, names in wanted.items() if part not in fresh for n in names - set(state)]
    if missing:
        known = set().union(*wanted.values())
        unmatched = [n for n in state if n not in known and not n.endswith("num_batches_tracked")]
        raise UserError(
            _missing_line(plan, wanted, sorted(missing), unmatched, absent - set(fresh))
        )
    used = {}
    for part in plan.parts:
        if part.name not in fresh:
            used[part.name] = weights_from_official(
                part.model, part.kind, state, prefix=part.prefix
            )
    return used, fresh


def _holds(state: Mapping[str, np.ndarray], part: Part) -> bool:
    return any(name.startswith(part.prefix or "mask_") for name in state)


def _missing_line(
    plan: Plan,
    wanted: Mapping[str, set[str]],
    missing: Sequence[str],
    unmatched: Sequence[str],
    absent: set[str],
) -> str:
    if sum(len(wanted[part]) for part in absent) == len(missing):
        parts = [part for part in wanted if part in absent]
        return (
            f"the checkpoint holds no {', '.join(parts)} ({missing[0]} and {len(missing) - 1} more "
            f"are missing): is it of a {plan.info['recipe']} run? "
            f"--allow_missing={','.join(parts)} imports the rest"
        )
    near = get_close_matches(missing[0], unmatched, 1, 0.6)
    hint = f"; {near[0]} is unmatched, was it renamed?" if near else ""
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"{missing[0]}{others} missing from the checkpoint{hint} "
        "(the architecture must be the one that --args describes)"
    )


def _flags(plan: Plan, settings: Mapping[str, Any]) -> list[str]:
    """Settings of bin/pretrain.py with which training goes on from this import."""
    names = ("dataset", "image_size", "backbone", "stem", "padding", "objective", "masking")
    chosen = {name: plan.info[name] for name in names if name in plan.info}
    if plan.layout == "moco":
        chosen |= {name: plan.info[name] for name in ("hidden_dim", "output_dim")}
    chosen |= {
        ours: settings[theirs]
        for theirs, ours in _FLAG_NAMES.items()
        if settings.get(theirs) is not None
    }
    return [f"--{name}={value}" for name, value in chosen.items()]
