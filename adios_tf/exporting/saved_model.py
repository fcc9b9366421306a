"""A pretrained model as a SavedModel that needs TensorFlow and nothing else.

Preprocessing is inside. One signature takes one kind of input:

| signature | input | outputs |
|---|---|---|
| serving_default | images, float32 [B,H,W,3] in [0,1] | features [B,D] |
| embed_uint8 | images, uint8 [B,H,W,3] | features |
| embed_bytes | bytes, string [B]: JPEG, PNG, GIF, BMP or WebP | features, ok [B] |
| masks, masks_uint8, masks_bytes | the same three | masks [B,S,S,N], occluded [B,N,S,S,3] (, ok) |
| classify, classify_uint8, classify_bytes | the same three | logits, probabilities [B,C] (, ok) |

What `tf.saved_model.load` returns can also be called, with float or uint8 images [B,H,W,3]:
`m(images)` and `m.features(images)` give features [B,D], `m.train(images)` the same with BatchNorm
in training mode, `m.masks(images)` masks [B,S,S,N], `m.classify(images)` logits [B,C]. Images of
side S are not resized, and only such calls compile under XLA.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.exporting.orientation import orientation, upright
from adios_tf.pretrained import ARCHITECTURE, PretrainedModel, architecture, weight_key

Outputs = dict[str, tf.Tensor]

FLOAT = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
UINT8 = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
BYTES = tf.TensorSpec([None], tf.string, name="bytes")

# A little room for a resizing's overshoot; images in 0..255 are far beyond it.
_HIGHEST = 1.5


def checked(images: tf.Tensor) -> tf.Tensor:
    """Returns float images [B,H,W,3]; a batch that is not in [0,1] is an error at run time."""
    largest = tf.reduce_max(tf.abs(images))
    within = (tf.size(images) == 0) | (largest <= _HIGHEST)  # false for NaN, too
    line = "float images must be in [0,1]; for 0..255 take the signature for uint8. Largest:"
    with tf.control_dependencies([tf.debugging.Assert(within, [line, largest])]):
        return tf.identity(images)


def decode(encoded: tf.Tensor, model: PretrainedModel) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes images of any size; a broken one does not harm the others.

    A decoder that fails ends the whole graph; within a tf.data pipeline it can be left out.
    JPEG files are turned upright as their EXIF orientation says. Of an animation the first
    picture is taken.

    Args:
      encoded: string [B], whole files.
      model: says to what size.

    Returns:
      (images [B,S,S,3] float32 in [0,1], 0 where broken; ok [B] bool).
    """
    count = tf.size(encoded, tf.int64)
    side = model.image_size

    def one(index: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(file, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        return index, model.resize(upright(image, orientation(file))[None])[0]

    files = tf.data.Dataset.from_tensor_slices((tf.range(count), encoded))
    found = files.map(one, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    # One more, so that the batch is never empty.
    blank = tf.data.Dataset.from_tensors((count, tf.zeros([side, side, 3])))
    place, images = found.concatenate(blank).batch(count + 1).get_single_element()
    shape = tf.stack([count, side, side, 3])
    images = tf.scatter_nd(place[:-1, None], images[:-1], shape)
    ok = tf.scatter_nd(place[:-1, None], tf.ones_like(place[:-1]), count[None]) > 0
    return tf.ensure_shape(images, [None, side, side, 3]), ok


def functions(model: PretrainedModel) -> dict[str, Callable[[tf.Tensor], Outputs]]:
    """Returns what a model can answer: {name: images [B,S,S,3] in [0,1] -> outputs}."""

    def embed(images: tf.Tensor) -> Outputs:
        return {"features": model.encoder(model.normalize(images), training=False)}

    def masks(images: tf.Tensor) -> Outputs:
        found = model.masker(model.normalize(images), training=False)
        return {"masks": found, "occluded": model.cover(images, found)}

    def classify(images: tf.Tensor) -> Outputs:
        logits = model.classifier(embed(images)["features"], training=False)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    answers = {"embed": embed}
    if model.masker is not None:
        answers["masks"] = masks
    if model.classifier is not None:
        answers["classify"] = classify
    return answers


def signatures(model: PretrainedModel) -> dict[str, tf.types.experimental.GenericFunction]:
    """Returns the model's signatures by name; see the module."""

    def from_float(answer: Callable) -> Callable:
        return lambda images: _even_none(images, lambda x: answer(model.resize(checked(x))))

    def from_uint8(answer: Callable) -> Callable:
        return lambda images: _even_none(images, lambda x: answer(model.resize(x)))

    def from_bytes(answer: Callable) -> Callable:
        def call(encoded: tf.Tensor) -> Outputs:
            images, ok = decode(encoded, model)
            outputs = _even_none(images, answer)
            return {name: _zero_unless(ok, x) for name, x in outputs.items()} | {"ok": ok}

        return call

    found = {}
    for name, answer in functions(model).items():
        plain = "serving_default" if name == "embed" else name
        for key, call, spec in (
            (plain, from_float(answer), FLOAT),
            (f"{name}_uint8", from_uint8(answer), UINT8),
            (f"{name}_bytes", from_bytes(answer), BYTES),
        ):
            found[key] = tf.function(call, input_signature=[spec], autograph=False)
    return found


def _even_none(images: tf.Tensor, answer: Callable[[tf.Tensor], Outputs]) -> Outputs:
    """Answers for a batch of no images too, with which TensorFlow's own kernels fail."""
    count = tf.shape(images)[0]
    rows = tf.stack([tf.cast(count == 0, tf.int32), 0, 0, 0])
    padded = tf.pad(images, tf.stack([tf.zeros_like(rows), rows], axis=1))
    padded.set_shape(images.shape)
    return {name: values[:count] for name, values in answer(padded).items()}


def _zero_unless(ok: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    keep = tf.reshape(ok, [-1] + [1] * (values.shape.rank - 1))
    return tf.where(keep, values, tf.zeros_like(values))


class _Servable(tf.__internal__.tracking.AutoTrackable):
    """What a SavedModel is once loaded: the variables, and the functions that call the model.

    Not a `tf.Module`, whose `trainable_variables` is a property and does not outlive the saving.
    Only the encoder's weights count as trainable, as in `PretrainedModel`.
    """

    def __init__(self, model: PretrainedModel):
        super().__init__()
        for part, network in model.parts().items():
            for index, weight in enumerate(network.weights):
                setattr(self, weight_key(part, index), weight.value)
        self.trainable_variables = [v.value for v in model.encoder.trainable_variables]
        self.variables = [v.value for v in model.encoder.weights]

        def encode(training: bool) -> Callable[[tf.Tensor], tf.Tensor]:
            return lambda x: model.encoder(model.normalize(x), training=training)

        calls = {"features": encode(False), "train": encode(True)}
        if model.masker is not None:
            calls["masks"] = lambda x: model.masker(model.normalize(x), training=False)
        if model.classifier is not None:
            calls["classify"] = lambda x: model.classifier(calls["features"](x), training=False)
        for name, call in calls.items():
            setattr(self, name, self._callable(model, call))
        self.__call__ = self.features

    @staticmethod
    def _callable(
        model: PretrainedModel, call: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.types.experimental.GenericFunction:
        def prepared(images: tf.Tensor) -> tf.Tensor:
            if not images.dtype.is_integer:
                images = checked(images)
            return call(model.resize(images))

        function = tf.function(prepared, autograph=False)
        # Loading tries the traces in this order: images of side S first, without the resizing,
        # which XLA cannot compile.
        side = model.image_size
        for size in (side, None):
            for dtype in (tf.float32, tf.uint8):
                function.get_concrete_function(tf.TensorSpec([None, size, size, 3], dtype))
        return function


def without_targets(model: PretrainedModel) -> PretrainedModel:
    """Returns the model without the EMA copies, which nobody serves."""
    kept = {name: part for name, part in model.parts().items() if not name.startswith("target")}
    return PretrainedModel(info=model.info, **kept)


def empty_folder(out: Path | str) -> Path:
    """Returns the folder; raises `UserError` where something lies in it already."""
    out = Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: name a new folder with --out")
    return out


def save_model(model: PretrainedModel, out: Path | str) -> Path:
    """Writes the SavedModel; it appears under its name only once it is complete.

    TensorFlow Serving looks for versions: write to `NAME/1`.

    Args:
      model: from `adios_tf.load`.
      out: a folder that is empty or not there.

    Returns:
      The folder.

    Raises:
      UserError: the folder holds something, or cannot be written.
    """
    out, model = empty_folder(out), without_targets(model)
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
        tf.saved_model.save(_Servable(model), str(fresh), signatures(model), options)
        beside = fresh / ARCHITECTURE
        beside.parent.mkdir(exist_ok=True)
        beside.write_text(architecture(model))
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(f"cannot write {out} ({str(error).splitlines()[0]})") from error
    return out


def sizes(model: PretrainedModel) -> dict[str, int]:
    """Returns the number of weights of every part."""
    return {
        name: int(sum(np.prod(weight.shape) for weight in part.weights))
        for name, part in model.parts().items()
    }
