"""A grid of settings for a study, and its runs as TensorBoard's HParams."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from adios_tf.errors import UserError


def swept(methods: Mapping[str, list[str]], sweep: str) -> dict[str, list[str]]:
    """Returns {name: flags} of every method with every point of a grid.

    Raises:
      UserError: not of the form `--flag=value,value;--flag=value,value`.

    >>> swept({"": []}, "--epochs=1,2;--set=width=4")
    {'epochs=1 set=width=4': ['--epochs=1', '--set=width=4'], \
'epochs=2 set=width=4': ['--epochs=2', '--set=width=4']}
    """
    axes = []
    for axis in sweep.split(";"):
        flag, equals, values = axis.strip().rpartition("=")
        if not (equals and values and flag.startswith("--")):
            raise UserError(f"--sweep: {axis!r} should be --flag=value,value,...")
        axes.append([f"{flag}={value.strip()}" for value in values.split(",")])
    found = {}
    for method, point in itertools.product(methods, itertools.product(*axes)):
        words = [method, *(word.lstrip("-") for word in point)]
        found[" ".join(words).strip()] = [*methods[method], *point]
    return found


def write_hparams(scores: Mapping[tuple[str, int], Mapping[str, float]], folder: Path) -> None:
    """Writes {(method, seed): scores} of swept methods below a folder that TensorBoard reads."""
    from tensorboard.plugins.hparams import api

    shutil.rmtree(folder, ignore_errors=True)
    for (method, seed), values in scores.items():
        point = dict(word.rpartition("=")[::2] for word in method.split() if "=" in word)
        trial = f"{method.replace('/', '-')}/{seed}"
        with tf.summary.create_file_writer(str(folder / trial)).as_default(step=0):
            api.hparams({**point, "seed": seed}, trial_id=trial)
            for name, value in values.items():
                tf.summary.scalar(name, value)
