"""Whole runs in one call: what the programs do, with a program's flags as keywords."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adios_tf import cli, pretrained
from adios_tf.data.in_memory import in_memory
from adios_tf.errors import UserError
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.results import Row
from adios_tf.evaluation.runner import evaluate as run_evaluation
from adios_tf.exporting.embeddings import Embedded, embed
from adios_tf.exporting.formats import Exported, export_run
from adios_tf.registry import unknown_name
from adios_tf.run_folder import RunFolder
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import pretrain as run_pretraining


class Run:
    """A pretraining run, read from its folder.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: Path | str):
        self._folder = RunFolder(path)
        self.path = self._folder.path

    @cached_property
    def model(self) -> pretrained.PretrainedModel:
        """Encoder and masker with their preprocessing: `.features(images)`, `.masks(images)`."""
        return pretrained.load(self.path)

    @property
    def encoder(self) -> keras.Model:
        """Normalized images [B,S,S,3] -> features [B,D]."""
        return self.model.encoder

    @property
    def masker(self) -> keras.Model | None:
        """Normalized images -> masks [B,S,S,N], 1 = hidden; None where none was trained."""
        return self.model.masker

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record per epoch: losses, rates, health, speed."""
        return self._folder.records()

    @property
    def summary(self) -> dict[str, Any]:
        """Results at the end."""
        return self._folder.read(self._folder.summary)

    @property
    def report(self) -> Path:
        """The page that shows it all."""
        return self._folder.report

    def embed(self, images: str | Path, out: str | Path | None = None, **settings: Any) -> Embedded:
        """Features of a folder of images, by file name; see `adios_tf.exporting.embeddings`."""
        return embed(self.path, images, out, **settings)


def settings_from(settings_class: type, keywords: dict[str, Any]) -> Any:
    """Returns settings from keywords, read and checked as the command line's flags are.

    Raises:
      UserError: an unknown keyword, or a value that its flag would refuse.
    """
    known = settings_class.__dataclass_fields__
    for name in keywords:
        if name not in known:
            raise unknown_name("setting", name, known)
    lines = []
    for name, value in keywords.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = [f"{key}={one}" for key, one in value.items()]
        if isinstance(value, list | tuple):
            value = ",".join(map(str, value))
        lines.append(f"--{name}={value}")
    return cli.parse(settings_class, lines)


def pretrain(
    data: str | Path | np.ndarray | tf.data.Dataset,
    out: str | Path,
    *,
    encoder: str | keras.Model | None = None,
    **settings: Any,
) -> Run:
    """Pretrains an encoder, and a masker against it; a run that was stopped goes on.

    Args:
      data: a folder of images, a name of the catalog or of TFDS, or the images themselves: an
        array [n,H,W,3] or a finite `tf.data.Dataset` of images, uint8 or float in [0,1]. Images in
        memory are normalized by their own mean and deviation.
      out: the run folder.
      encoder: a name (`--backbone`), or any Keras model of images [B,S,S,3] to features [B,D] or
        feature maps [B,h,w,D]; a copy of it is trained. None = the setting's default.
      **settings: every flag of `bin/pretrain.py` by its name, such as `epochs=10`.

    Returns:
      The run.

    Raises:
      UserError: a mistake in the settings, the data or the folder.
    """
    images = None
    if isinstance(data, str | Path):
        settings["dataset"] = str(data)
    else:
        images = in_memory(data, settings.get("image_size", 0))
        settings["dataset"] = images.info.name
    model = encoder if isinstance(encoder, keras.Model) else None
    if model is not None:
        settings["backbone"] = "custom"
    elif isinstance(encoder, str):
        settings["backbone"] = encoder
    elif encoder is not None:
        raise UserError(f"encoder must be a name or a keras.Model, not {encoder!r}")
    config = settings_from(PretrainConfig, {**settings, "run_dir": str(out)})
    run_pretraining(config, images, model)
    return Run(out)


def export(
    run: Run | str | Path, out: str | Path, formats: Sequence[str] = ("saved_model",)
) -> Exported:
    """Exports a run, with a model card beside it.

    Args:
      run: what `pretrain` returned, a run folder, or an earlier export.
      out: a folder that is empty or not there.
      formats: one or more of "saved_model", "keras", "weights", "litert", "onnx".

    Returns:
      The files, and why a format could not be had.

    Raises:
      UserError: no such run, a folder that holds something, or an unknown format.
    """
    return export_run(run.path if isinstance(run, Run) else run, out, formats)


def evaluate(run: Run | str | Path, protocols: Sequence[str] = (), **settings: Any) -> list[Row]:
    """Evaluates a run, prints the table and writes it into the run folder.

    Args:
      run: what `pretrain` returned, a run folder, or an export.
      protocols: such as "knn", "linear"; () = the setting's default.
      **settings: every flag of `bin/evaluate.py` by its name.

    Returns:
      The rows of the table.

    Raises:
      UserError: a mistake in the settings, or nothing to evaluate.
    """
    path = run.path if isinstance(run, Run) else run
    given = {"run": str(path), **settings} | ({"protocols": protocols} if protocols else {})
    return run_evaluation(settings_from(EvaluateConfig, given))
