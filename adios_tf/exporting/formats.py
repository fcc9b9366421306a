"""From a run to what production gets: files in the formats asked for, and a model card.

Other formats than SavedModel (Keras files, bare weights, LiteRT and ONNX) take images of the
pretraining side, float32 [B,S,S,3] in [0,1]; resizing and decoding are left to the caller.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.exporting.card import write_card
from adios_tf.exporting.saved_model import empty_folder, save_model
from adios_tf.pretrained import PretrainedModel
from adios_tf.registry import Registry

FORMATS = Registry("format")


@FORMATS.register("saved_model", "for TensorFlow Serving and anything with TensorFlow")
def write_saved_model(model: PretrainedModel, out: Path) -> list[Path]:
    """Writes the SavedModel into the folder itself."""
    return [save_model(model, out)]


def _write_each(
    networks: Iterable[tuple[str, Any]],
    out: Path,
    suffix: str,
    write: Callable[[Any, Path], object],
) -> list[Path]:
    """Writes every network to a file of its name and the suffix."""
    written = []
    for name, network in networks:
        written.append(out / f"{name}{suffix}")
        write(network, written[-1])
    return written


@FORMATS.register("keras", "one .keras file per network, with normalization inside")
def write_keras(model: PretrainedModel, out: Path) -> list[Path]:
    """Writes encoder.keras (and masker.keras, classifier.keras): images in [0,1] -> outputs."""
    return _write_each(_from_images(model), out, ".keras", keras.Model.save)


@FORMATS.register("weights", "bare weights, one .weights.h5 file per network")
def write_weights(model: PretrainedModel, out: Path) -> list[Path]:
    """Writes NAME.weights.h5 for a network that `build_encoder` and others rebuild."""
    return _write_each(model.parts().items(), out, ".weights.h5", keras.Model.save_weights)


@FORMATS.register("litert", "LiteRT (TensorFlow Lite), one .tflite file per answer")
def write_litert(model: PretrainedModel, out: Path) -> list[Path]:
    """Writes encoder.tflite (and masker.tflite, classifier.tflite)."""

    def write(network: keras.Model, path: Path) -> None:
        spec = tf.TensorSpec(network.input_shape, tf.float32, name="images")
        traced = tf.function(lambda images: network(images, training=False))
        function = traced.get_concrete_function(spec)
        try:
            data = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
        except Exception as error:  # the converter raises what it likes
            raise _cannot("litert", error) from error
        path.write_bytes(data)

    return _write_each(_from_images(model), out, ".tflite", write)


@FORMATS.register("onnx", "ONNX, one .onnx file per answer; needs tf2onnx")
def write_onnx(model: PretrainedModel, out: Path) -> list[Path]:
    """Writes encoder.onnx (and masker.onnx, classifier.onnx)."""
    try:
        import tf2onnx  # pyright: ignore[reportMissingImports]  (an extra)
    except Exception as error:  # an old tf2onnx fails on a new NumPy in many ways
        raise UserError(
            f"--format=onnx needs the package tf2onnx, which cannot be imported here ({error}): "
            "pip install tf2onnx onnx"
        ) from error

    def write(network: keras.Model, path: Path) -> None:
        spec = tf.TensorSpec(network.input_shape, tf.float32, name="images")
        function = tf.function(lambda images: network(images, training=False), [spec])
        try:
            tf2onnx.convert.from_function(function, [spec], output_path=str(path))
        except Exception as error:
            raise _cannot("onnx", error) from error

    return _write_each(_from_images(model), out, ".onnx", write)


class Exported(NamedTuple):
    """The files that were written, and {format: why it cannot be had}."""

    files: tuple[Path, ...]
    failed: dict[str, str]


def export_run(
    run: Path | str, out: Path | str, formats: Sequence[str] = ("saved_model",)
) -> Exported:
    """Exports a run folder in one or more formats, with README.md and model.json beside them.

    `run` is a run folder of bin/pretrain.py or bin/import_torch.py, or an earlier export; `out` a
    folder that is empty or not there; the formats are names in `FORMATS`, of which one that cannot
    be had does not keep the others back. `UserError` where there is no such run, the folder holds
    something, or a format is unknown.
    """
    for name in formats:
        _ = FORMATS[name]
    if not formats:
        raise UserError(f"name a format: --format={', '.join(FORMATS)}")
    out = empty_folder(out)
    model = pretrained.load(run)
    written: list[Path] = []
    failed = {}
    # The SavedModel makes the folder, so it comes first.
    for name in sorted(formats, key=lambda name: name != "saved_model"):
        try:
            if name != "saved_model":
                out.mkdir(parents=True, exist_ok=True)
            written += FORMATS[name](model, out)
        except UserError as error:
            failed[name] = str(error)
    if written:
        names = [path.name if path != out else "saved_model.pb" for path in written]
        write_card(model, run, out, names)
    return Exported(tuple(written), failed)


def _cannot(name: str, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"--format={name} cannot be had for this model here: {lines[0][:200]}")


def _from_images(model: PretrainedModel) -> Iterator[tuple[str, keras.Model]]:
    """Yields Keras models of images [B,S,S,3] in [0,1], one per part that looks at images."""
    side = model.image_size
    images = keras.Input((side, side, 3), name="images")
    mean, std = model.info["mean"], model.info["std"]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    normalized = keras.layers.Rescaling([1 / s for s in std], offset)(images)
    features = model.encoder(normalized)
    yield "encoder", keras.Model(images, features, name="encoder")
    if model.masker is not None:
        yield "masker", keras.Model(images, model.masker(normalized), name="masker")
    if model.classifier is not None:
        yield "classifier", keras.Model(images, model.classifier(features), name="classifier")
