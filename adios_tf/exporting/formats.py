"""Other formats than SavedModel: Keras files, bare weights, LiteRT and ONNX.

They take images of the pretraining side, float32 [B,S,S,3] in [0,1]; resizing and decoding are
left to the caller.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.exporting.saved_model import save_model
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


def export_format(name: str, model: PretrainedModel, out: Path | str) -> list[Path]:
    """Writes a model in one format and returns the files.

    Args:
      name: one of `FORMATS`.
      model: from `adios_tf.load`.
      out: folder.

    Raises:
      UserError: an unknown format, or one that cannot be had here.
    """
    write: Callable[[PretrainedModel, Path], list[Path]] = FORMATS[name]
    out = Path(out).expanduser()
    if name != "saved_model":
        out.mkdir(parents=True, exist_ok=True)
    return write(model, out)


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
