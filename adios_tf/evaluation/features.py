"""Features of many images, always in inference mode."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.encoders.variants import at_side
from adios_tf.errors import UserError
from adios_tf.pretrained import PretrainedModel

LAYERS = ("backbone", "projector", "pixels")


def pixels_of(images: tf.Tensor) -> tf.Tensor:
    """Returns images [B,...] as rows [B,D]."""
    return tf.reshape(images, [tf.shape(images)[0], -1])


def feature_function(
    model: PretrainedModel, layer: str, image_size: int = 0
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns normalized images [B,S,S,3] -> features [B,D], with BatchNorm in inference mode.

    The layer is "backbone", "projector" (what the loss saw), or "pixels" (no network at all);
    `image_size` is the side S if not that of pretraining. `UserError` where the model has no
    projector, or its encoder takes one side only.
    """
    if layer == "pixels":
        return pixels_of
    if layer == "projector" and model.projector is None:
        raise UserError("this model has no projector: use --features=backbone")
    encoder = at_side(model.encoder, image_size or model.image_size)
    parts = [encoder] if layer == "backbone" else [encoder, model.projector]

    @tf.function(reduce_retracing=True)
    def encode(images: tf.Tensor) -> tf.Tensor:
        for part in parts:
            images = part(images, training=False)
        return images

    return encode


def encode_batches(
    function: Callable[[tf.Tensor], tf.Tensor],
    batches: Iterable[tf.Tensor],
    batch_size: int,
    total: int | None = None,
    title: str = "features",
) -> np.ndarray:
    """Returns the outputs of all batches as one float32 array [n,...].

    A smaller last batch is padded to `batch_size`, so that every image meets the same kernels. The
    bar of that title, over `total` images, appears after two seconds.
    """
    found = []
    with tqdm(desc=title, total=total, delay=2, unit="img") as bar:
        for images in batches:
            count = len(images)
            padded = tf.pad(images, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])
            found.append(np.asarray(function(padded), np.float32)[:count])
            bar.update(count)
    if not found:
        raise UserError("no image to encode: the split is empty")
    return np.concatenate(found)
