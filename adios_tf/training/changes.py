"""Which settings of a run may change when it is resumed, and what is written down of it.

The first settings stay in flags.txt. Every later change is a line of changes.jsonl with the update
from which on it holds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from adios_tf import cli
from adios_tf.errors import UserError
from adios_tf.registry import unknown_name
from adios_tf.run_folder import RunFolder
from adios_tf.training.config import PretrainConfig

# What changes no number of the run, or changes it by rounding only. All else is what the run means.
FREE = {
    "run_dir": "a run folder may be moved",
    "resume": "says whether, not what",
    "allow_changes": "likewise",
    "replay": "trains nothing",
    "list": "likewise",
    "plugins": "modules may be moved; what they define is named by other flags",
    "init_from": "read by a fresh start only",
    "init_parts": "likewise",
    "data_dir": "the same data may lie elsewhere",
    "download": "likewise",
    "max_minutes": "the epochs that it chose hold",
    "devices": "equal within rounding",
    "cluster": "likewise",
    "xla": "equal within rounding",
    "lean_memory": "the same sums in the same order",
    "knn_every": "measures only",
    "picture_every": "measures only",
    "picture_images": "measures only",
    "keep_checkpoints": "what is saved, not what is trained",
    "checkpoint_steps": "likewise",
    "stop_on_collapse": "when to stop, not what is trained",
}
DATA = ("dataset", "train_split", "train_images", "class_list", "skip_broken")


def _texts(config: PretrainConfig) -> dict[str, str]:
    """{flag: value} as flags.txt spells it."""
    pairs = (line.removeprefix("--").partition("=") for line in cli.flag_lines(config))
    return {name: value for name, _, value in pairs}


def changes(config: PretrainConfig, run: RunFolder) -> dict[str, list[str]]:
    """Returns {flag: [value so far, value now]} in the order of the settings.

    Raises:
      UserError: one of them changes what the run means, and --allow_changes does not name it.
    """
    names = [field.name for field in dataclasses.fields(config)]
    for name in config.allow_changes:
        if name not in names:
            raise unknown_name("flag in --allow_changes", name, names)
    # A flag that did not exist when the run began had what is its default now.
    so_far, now = _texts(PretrainConfig()) | run.settings(), _texts(config)
    found = {}
    for name in names:
        one, other = so_far.get(name, ""), now.get(name, "")
        if one == other or name in ("run_dir", "resume", "allow_changes", "replay"):
            continue
        if name not in FREE and name not in config.allow_changes:
            raise UserError(
                f"--{name}={other}, but {run.path} was begun with --{name}={one}: repeat its "
                f"flags.txt, take a new --run_dir, or pass --allow_changes={name} to go on so"
            )
        found[name] = [one, other]
    return found


def check_data(
    config: PretrainConfig, so_far: Mapping[str, Any], now: Mapping[str, Any], run: RunFolder
) -> None:
    """Refuses to go on with data of another size than the checkpoint's.

    Raises:
      UserError: they differ, and --allow_changes names no flag of the data.
    """
    if set(DATA) & set(config.allow_changes):
        return
    for what, count in now.items():
        if so_far.get(what, count) != count:
            raise UserError(
                f"the data of {run.path} had {so_far[what]} {what}, now {count}: bring back what "
                "it was, take a new --run_dir, or pass --allow_changes=dataset to go on so"
            )
