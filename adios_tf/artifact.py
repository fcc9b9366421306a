"""What a run leaves behind for everybody else: encoder, projector, masker and their facts.

Evaluation, export and serving read only this folder (`RUN/model/`):

    info.json        dataset, image side, normalisation, recipe, commit, ...
    encoder.keras    normalised images [B,S,S,3] -> features [B,D]
    projector.keras  features [B,D] -> projections [B,P]     (where the objective has one)
    masker.keras     normalised images [B,S,S,3] -> masks [B,S,S,N], 1 = hidden (where trained)
"""

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import adios_tf.masking
import adios_tf.nets  # noqa: F401  both register the custom layers that .keras files name
from adios_tf.errors import UserError

_PARTS = ("encoder", "projector", "masker")


def save(
    folder: Path | str,
    info: dict[str, Any],
    encoder: keras.Model,
    projector: keras.Model | None = None,
    masker: keras.Model | None = None,
) -> Path:
    """Writes the model folder, replacing an older one only once the new one is complete.

    Args:
      folder: where to write, usually `RUN/model`.
      info: JSON-able facts; `image_size`, `mean` and `std` are required for loading.
      encoder: normalised float32 [B,S,S,3] -> [B,D].
      projector: [B,D] -> [B,P].
      masker: normalised float32 [B,S,S,3] -> [B,S,S,N] in [0,1].

    Returns:
      The folder.
    """
    folder = Path(folder)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for part, model in zip(_PARTS, (encoder, projector, masker), strict=True):
        if model is not None:
            model.save(fresh / f"{part}.keras")
    (fresh / "info.json").write_text(json.dumps(info, indent=2) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load(path: Path | str) -> "PretrainedModel":
    """Returns the model of a run folder (or of the `model` folder inside it).

    Raises:
      UserError: nothing is there, or what is there cannot be read.
    """
    path = Path(path)
    folder = path if (path / "info.json").exists() else path / "model"
    if not (folder / "info.json").exists():
        raise UserError(
            f"no pretrained model in {path}: name a run folder of bin/pretrain.py "
            "that has finished at least one epoch"
        )
    info = json.loads((folder / "info.json").read_text())
    parts = {}
    for part in _PARTS:
        file = folder / f"{part}.keras"
        if file.exists():
            try:
                parts[part] = keras.models.load_model(file, compile=False)
            except (ValueError, OSError, TypeError, KeyError) as error:
                first_line = str(error).strip().splitlines()[0]
                raise UserError(
                    f"cannot read {file} ({first_line}): the file is damaged or was written "
                    "with layers that are not imported here"
                ) from error
    if "encoder" not in parts:
        raise UserError(f"{folder} holds no encoder.keras: the folder is incomplete")
    return PretrainedModel(info=info, **parts)


class PretrainedModel(keras.Model):
    """A pretrained encoder with its preprocessing, usable as a layer and trainable.

    Calling it gives features. Images are [B,H,W,3], uint8 in 0..255 or float in [0,1], of
    any size: they are resized to the pretraining side and normalised inside.

    Attributes:
      encoder, projector, masker: the parts, working on normalised images (see module).
      info: the facts of info.json.
    """

    def __init__(
        self,
        info: dict[str, Any],
        encoder: keras.Model,
        projector: keras.Model | None = None,
        masker: keras.Model | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.info = dict(info)
        self.encoder, self.projector, self.masker = encoder, projector, masker
        self.image_size = int(info["image_size"])
        self._mean = np.asarray(info["mean"], np.float32)
        self._std = np.asarray(info["std"], np.float32)

    def preprocess(self, images: Any) -> tf.Tensor:
        """Returns [B,H,W,3] uint8 or float [0,1] images as normalised float32 [B,S,S,3]."""
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 4 or images.shape[-1] not in (3, None):
            raise UserError(f"images must be [B,H,W,3], got shape {tuple(images.shape)}")
        if images.dtype.is_integer:
            images = tf.cast(images, tf.float32) / 255.0
        images = tf.cast(images, tf.float32)
        side = self.image_size
        if images.shape[1] != side or images.shape[2] != side:
            images = tf.image.resize(images, (side, side), "bicubic", antialias=True)
            images = tf.clip_by_value(images, 0.0, 1.0)
        return (images - self._mean) / self._std

    def call(self, images: Any, training: bool = False) -> tf.Tensor:
        """Returns features [B,D]."""
        return self.encoder(self.preprocess(images), training=training)

    def features(self, images: Any) -> tf.Tensor:
        """Returns features [B,D] in inference mode."""
        return self(images, training=False)

    def masks(self, images: Any) -> tf.Tensor:
        """Returns masks [B,S,S,N] in [0,1], 1 = hidden.

        Raises:
          UserError: the run trained no masker.
        """
        if self.masker is None:
            raise UserError("this model has no masker: it was pretrained without learned masks")
        return self.masker(self.preprocess(images), training=False)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self.encoder.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("save the parts with adios_tf.artifact.save")
