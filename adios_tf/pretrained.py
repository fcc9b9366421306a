"""What a run leaves behind for everybody else: encoder, projector, masker and their facts.

Evaluation, export and serving read only this folder (`RUN/model/`):

    info.json              dataset, image side, normalization, recipe, commit, ...
    encoder.keras          normalized images [B,S,S,3] -> features [B,D]
    projector.keras        features [B,D] -> projections [B,P]     (where the objective has one)
    masker.keras           normalized images -> masks [B,S,S,N], 1 = hidden  (where trained)
    predictor.keras        projections [B,P] -> predictions [B,P]  (where the objective has one)
    target_encoder.keras   EMA copy of the encoder                 (where it was imported)
    target_projector.keras EMA copy of the projector               (where it was imported)
    classifier.keras       features [B,D] -> logits [B,C]          (where a linear head was trained)
"""

import contextlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.registry import import_plugins
from adios_tf.run_folder import INFO, RunFolder, checked_info
from adios_tf.serialization import serializable

PARTS = (
    "encoder",
    "projector",
    "masker",
    "predictor",
    "target_encoder",
    "target_projector",
    "classifier",
)


def save(
    folder: Path | str,
    info: dict[str, Any],
    encoder: keras.Model,
    projector: keras.Model | None = None,
    masker: keras.Model | None = None,
    predictor: keras.Model | None = None,
    **others: keras.Model | None,
) -> Path:
    """Writes the model folder, replacing an older one only once the new one is complete.

    Args:
      folder: where to write, usually `RUN/model`.
      info: JSON-able facts; `image_size`, `mean` and `std` are required for loading.
      encoder: normalized float32 [B,S,S,3] -> [B,D].
      projector: [B,D] -> [B,P].
      masker: normalized float32 [B,S,S,3] -> [B,S,S,N] in [0,1].
      predictor: [B,P] -> [B,P].
      **others: the rarer parts of `PARTS`.

    Returns:
      The folder.
    """
    parts = {"encoder": encoder, "projector": projector, "masker": masker, "predictor": predictor}
    parts |= others
    if unknown := set(parts) - set(PARTS):
        raise TypeError(f"a model folder has no part {', '.join(sorted(unknown))}")
    folder = Path(folder)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for part, model in parts.items():
        if model is not None:
            model.save(fresh / f"{part}.keras")
    (fresh / INFO).write_text(json.dumps(info, indent=2) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load(path: Path | str) -> "PretrainedModel":
    """Returns the model of a run folder, of the `model` folder inside it, or of an export.

    The plugins that the run was trained with are imported, where they can be found.

    Args:
      path: the folder. An export is a SavedModel that `bin/export.py` wrote; it lies beside its
        architecture.

    Raises:
      UserError: nothing is there, or what is there cannot be read.
    """
    path, run = Path(path).expanduser(), RunFolder(path)
    folder = run.model
    with contextlib.suppress(ValueError):  # then Keras says which layer it lacks, if it does
        import_plugins([name for name in run.settings().get("plugins", "").split(",") if name])
    if not run.has_model:
        if (path / ARCHITECTURE).exists():
            return _load_exported(path)
        raise UserError(
            f"no pretrained model in {path}: name a run folder of {program('pretrain')} "
            f"that has finished at least one epoch, or a SavedModel of {program('export')}"
        )
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"cannot read {folder / INFO} ({error}): the folder is damaged") from error
    info, parts = checked_info(info, folder / INFO), {}
    for part in PARTS:
        file = folder / f"{part}.keras"
        if file.exists():
            parts[part] = read_part(file)
    if "encoder" not in parts:
        raise UserError(f"{folder} holds no encoder.keras: the folder is incomplete")
    return _assembled(info, parts, folder / INFO)


def _assembled(
    info: dict[str, Any], parts: dict[str, keras.Model], file: Path
) -> "PretrainedModel":
    """Puts a model together; raises `UserError` where its encoder reads images of another side."""
    side, takes = info["image_size"], parts["encoder"].input_shape[1]
    if takes not in (side, None):
        raise UserError(f"{file}: image_size is {side}, but the encoder was built for {takes}")
    return PretrainedModel(info=info, **parts)


def read_part(file: Path) -> keras.Model:
    """Returns one of the networks; raises `UserError` where Keras cannot read the file."""
    try:
        # Keras looks at the size of the weights only.
        members = zipfile.ZipFile(file).infolist() if zipfile.is_zipfile(file) else ()
        if any(one.file_size > max(2**26, 100 * one.compress_size) for one in members):
            raise ValueError("it would unpack to more than a hundred times its size")
        return keras.models.load_model(file, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        lost = re.search(r"Could not locate \w+ '\w+'", str(error))
        reason = lost[0] if lost else str(error).strip().splitlines()[0]
        raise UserError(
            f"cannot read {file} ({reason}): the file is damaged, or holds layers of your own: "
            "each needs @keras.saving.register_keras_serializable(), its module --plugins=MODULE"
        ) from error


# A SavedModel keeps the weights under these names, and beside them what Keras needs to rebuild
# the networks around them, so that an export can be trained on without a second copy.
ARCHITECTURE = "assets.extra/architecture.json"


def weight_key(part: str, index: int) -> str:
    """The name under which an export keeps the weight `index` of a part."""
    return f"{part}_{index:04d}"


def architecture(model: "PretrainedModel") -> str:
    """Returns, as JSON, all of a model but its weights."""
    parts = {name: part.to_json() for name, part in model.parts().items()}
    return json.dumps({"info": model.info, "parts": parts})


def _load_exported(path: Path) -> "PretrainedModel":
    try:
        stored = json.loads((path / ARCHITECTURE).read_text())
        info = checked_info(stored["info"], path / ARCHITECTURE)
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        parts = {}
        for name, config in stored["parts"].items():
            parts[name] = part = keras.models.model_from_json(config)
            keys = [weight_key(name, i) for i in range(len(part.weights))]
            part.set_weights(
                [reader.get_tensor(f"{key}/.ATTRIBUTES/VARIABLE_VALUE") for key in keys]
            )
        return _assembled(info, parts, path / ARCHITECTURE)
    except UserError:
        raise
    except (
        LookupError,
        ValueError,
        OSError,
        TypeError,
        AttributeError,
        tf.errors.OpError,
    ) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot read the SavedModel {path} ({reason}): export it again") from error


@serializable
class PretrainedModel(keras.Model):
    """A pretrained encoder with its preprocessing, usable as a layer and trainable.

    Calling it gives features. Images are [B,H,W,3], uint8 in 0..255 or float in [0,1], of
    any size: they are resized to the pretraining side and normalized inside.

    Only the encoder counts as the layer's weights: it alone is trained and saved within a
    model of the user's own. The other parts stay as they are.

    Attributes:
      encoder, projector, masker, predictor, target_encoder, target_projector, classifier: the
        parts, working on normalized images (see module); None where there is none.
      info: the facts of info.json.
    """

    def __init__(
        self,
        info: dict[str, Any],
        encoder: keras.Model,
        projector: keras.Model | None = None,
        masker: keras.Model | None = None,
        predictor: keras.Model | None = None,
        target_encoder: keras.Model | None = None,
        target_projector: keras.Model | None = None,
        classifier: keras.Model | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.info = dict(info)
        self.encoder = encoder
        # Keras looks for layers among attributes, and would count these parts' weights in.
        self._others = SimpleNamespace(
            projector=projector,
            masker=masker,
            predictor=predictor,
            target_encoder=target_encoder,
            target_projector=target_projector,
            classifier=classifier,
        )
        self.image_size = int(info["image_size"])
        self._mean = np.asarray(info["mean"], np.float32)
        self._std = np.asarray(info["std"], np.float32)

    projector = property(lambda self: self._others.projector)
    masker = property(lambda self: self._others.masker)
    predictor = property(lambda self: self._others.predictor)
    target_encoder = property(lambda self: self._others.target_encoder)
    target_projector = property(lambda self: self._others.target_projector)
    classifier = property(lambda self: self._others.classifier)

    def parts(self) -> dict[str, keras.Model]:
        """Returns {name: network} of the parts that are there."""
        found = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in found.items() if part is not None}

    def resize(self, images: Any) -> tf.Tensor:
        """Returns [B,H,W,3] uint8 or float [0,1] images as float32 [B,S,S,3] in [0,1].

        Raises:
          UserError: images of another shape.
        """
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 4 or images.shape[-1] not in (3, None):
            raise UserError(f"images must be [B,H,W,3], got shape {tuple(images.shape)}")
        if images.dtype.is_integer:
            images = tf.cast(images, tf.float32) / 255.0
        images = tf.cast(images, tf.float32)
        side = self.image_size

        def resized() -> tf.Tensor:
            scaled = tf.image.resize(images, (side, side), "bicubic", antialias=True)
            return tf.clip_by_value(scaled, 0.0, 1.0)

        height, width = images.shape[1:3]
        if height is None or width is None:
            shape = tf.shape(images)
            fits = (shape[1] == side) & (shape[2] == side)
            images = tf.cond(fits, lambda: images, resized)
        elif (height, width) != (side, side):
            images = resized()
        return tf.ensure_shape(images, [None, side, side, 3])

    def normalize(self, images: tf.Tensor) -> tf.Tensor:
        """Returns images in [0,1] as the parts want them: mean 0 and deviation 1 per channel."""
        return (images - self._mean) / self._std

    def preprocess(self, images: Any) -> tf.Tensor:
        """Returns [B,H,W,3] uint8 or float [0,1] images as normalized float32 [B,S,S,3]."""
        return self.normalize(self.resize(images))

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

    def occluded(self, images: Any) -> tf.Tensor:
        """Returns, per mask, what the encoder saw of the images: [B,N,S,S,3] in [0,1].

        Hidden pixels have the data set's mean color, which is 0 once normalized.

        Raises:
          UserError: the run trained no masker.
        """
        return self.cover(self.resize(images), self.masks(images))

    def cover(self, images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        """Hides masks [B,S,S,N] in images [B,S,S,3] in [0,1]: [B,N,S,S,3]."""
        hidden = tf.transpose(masks, [0, 3, 1, 2])[..., None]
        return images[:, None] * (1 - hidden) + self._mean * hidden

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self.encoder.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The facts and the encoder: what is saved as a layer of the user's own model."""
        encoder = keras.saving.serialize_keras_object(self.encoder)
        return super().get_config() | {"info": self.info, "encoder": encoder}

    @classmethod
    def from_config(cls, config: dict[str, Any], **_: Any) -> "PretrainedModel":
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        rest = {name: config[name] for name in ("name", "trainable") if name in config}
        return cls(info=config["info"], encoder=encoder, **rest)
