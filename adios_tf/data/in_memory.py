"""Images that the caller already holds, as a data set."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from adios_tf.data.catalog import DatasetInfo
from adios_tf.data.sources import Examples
from adios_tf.errors import UserError, user_error

MEASURED_IMAGES = 2000  # normalization and the fingerprint are taken from so many, evenly spread
LARGEST_SIDE = 224
SIDE_STEP = 16  # sides that every encoder and masker takes


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Images without labels, and what was measured of them."""

    info: DatasetInfo
    examples: Examples


def in_memory(images: Any, image_size: int = 0) -> InMemory:
    """Returns images as a data set.

    Args:
      images: array [n,H,W,3] or a finite `tf.data.Dataset` of images [H,W,3] or batches of them
        (of a dict the entry "image", of a tuple the first), uint8 or float in [0,1].
      image_size: side of the views; 0 = that of the images, rounded to a multiple of 16, at
        most 224.

    Raises:
      UserError: no images, another shape, or floats beyond [0,1].
    """
    dataset = images if isinstance(images, tf.data.Dataset) else _slices(images)
    dataset = dataset.map(_image, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if dataset.element_spec.shape.rank == 4:
        dataset = dataset.unbatch()
    shape = dataset.element_spec.shape
    if shape.rank not in (None, 3) or (shape.rank == 3 and shape[-1] not in (3, None)):
        raise UserError(f"images must be [n,H,W,3], got elements of shape {tuple(shape)}")
    count = int(dataset.cardinality())
    if count < 0:
        if count == tf.data.INFINITE_CARDINALITY:
            raise UserError("the data set of images repeats without end: give it without repeat()")
        count = sum(1 for _ in dataset)
    if not count:
        raise UserError("there are no images: the data set is empty")
    every = max(1, count // MEASURED_IMAGES)
    try:
        some = list(dataset.enumerate().filter(lambda n, _: n % every == 0).map(lambda _, x: x))
    except tf.errors.OpError as error:
        why = user_error(error) or error.message.strip().splitlines()[0]
        raise UserError(f"cannot read the images ({why})") from error
    if any(image.shape.rank != 3 or image.shape[-1] != 3 for image in some):
        raise UserError("images must be [H,W,3], one of these is not")
    pixels = np.concatenate([np.reshape(image, (-1, 3)) for image in some]) / np.float64(255)
    mean, std = pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1e-3)
    digest = hashlib.sha256(str(count).encode())
    for image in some:
        digest.update(image.numpy().tobytes())
    side = min(min(image.shape[:2]) for image in some)
    rounded = min(max(SIDE_STEP * round(side / SIDE_STEP), SIDE_STEP), LARGEST_SIDE)
    info = DatasetInfo(
        f"memory:{digest.hexdigest()[:16]}",
        image_size=image_size or rounded,
        num_classes=0,
        mean=tuple(mean.round(6).tolist()),
        std=tuple(std.round(6).tolist()),
        line="images in memory",
    )

    def example(index: tf.Tensor, image: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.ensure_shape(image, [None, None, 3])
        return {"image": image, "label": tf.constant(-1, tf.int64), "index": index}

    numbered = dataset.enumerate().map(example)
    numbered = numbered.apply(tf.data.experimental.assert_cardinality(count))
    return InMemory(info, Examples(numbered, count, num_classes=0))


def _slices(images: Any) -> tf.data.Dataset:
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise UserError(f"images must be one array [n,H,W,3] ({error})") from error
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype.kind not in "uif":
        raise UserError(
            f"images must be [n,H,W,3], uint8 or float in [0,1], got {array.dtype} of shape "
            f"{array.shape}"
        )
    return tf.data.Dataset.from_tensor_slices(as_uint8(array)) if len(array) else _empty()


def _empty() -> tf.data.Dataset:
    raise UserError("there are no images: the array is empty")


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Returns images as uint8; raises `UserError` where floats leave [0,1] or integers 0..255."""
    if images.dtype == np.uint8:
        return images
    high = 1.0 if images.dtype.kind == "f" else 255
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= high):
        raise UserError(
            "images must be uint8, or float in [0,1]: their values range from "
            f"{images.min():g} to {images.max():g}"
        )
    return np.rint(images * 255.0 if high == 1 else images).astype(np.uint8)


def _image(*element: Any) -> tf.Tensor:
    """The images of an element of a data set, as uint8."""
    image = element[0]["image"] if isinstance(element[0], dict) else element[0]
    if image.dtype == tf.uint8:
        return image
    return tf.ensure_shape(tf.numpy_function(as_uint8, [image], tf.uint8), image.shape)
