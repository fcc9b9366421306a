"""Decoded images held in memory, to be read in any order."""

import dataclasses

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.data.sources import Examples

DECODE_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Memory:
    """Images of one split, and their masks, one after another.

    Attributes:
      pixels: uint8 [n,h,w,3] if all have one size, else flat.
      masks: int32 [n,h,w] or flat, None without ground truth.
      shapes: int64 [n,2], height and width.
      starts: int64 [n], where an image begins in the flat layout, in pixels.
      labels: int64 [n], or [n,C] where an image has several.
      uniform: whether all have one size.
    """

    pixels: tf.Tensor
    masks: tf.Tensor | None
    shapes: tf.Tensor
    starts: tf.Tensor
    labels: tf.Tensor
    uniform: bool

    def batch(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"image": [B,h,w,3], "label", "index", "mask"} of images of one size."""
        found = {
            "image": tf.gather(self.pixels, index),
            "label": tf.gather(self.labels, index),
            "index": index,
        }
        if self.masks is not None:
            found["mask"] = tf.gather(self.masks, index)
        return found

    def example(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns {"image": [h,w,3], "label", "index", "mask"} of one image of any size."""
        if self.uniform:
            return self.batch(index)
        height, width = self.shapes[index, 0], self.shapes[index, 1]
        begin = self.starts[index]
        end = begin + height * width
        image = tf.reshape(self.pixels[3 * begin : 3 * end], [height, width, 3])
        found = {"image": image, "label": self.labels[index], "index": index}
        if self.masks is not None:
            found["mask"] = tf.reshape(self.masks[begin:end], [height, width])
        return found


def decoded_bytes(examples: Examples) -> int:
    """Estimates what the decoded images of a split take: from sixteen, of a folder all over it."""
    sample, encoded = examples.dataset, examples.before_decoding
    if examples.files and encoded is not None:  # which lie class by class
        sample = encoded.dataset.shard(-(-examples.count // 16), 0).map(encoded.decode)
    sizes = [one["image"].nbytes for one in sample.take(16).as_numpy_iterator()]
    return int(np.mean(sizes) * examples.count)


def load(examples: Examples) -> Memory:
    """Decodes every image once."""
    alike = examples.dataset.element_spec["image"].shape.is_fully_defined()
    with tqdm(desc="decoding images", total=examples.count, delay=2, unit="img") as bar:
        parts = _alike(examples, bar) if alike else _one_by_one(examples, bar)
    images, masks, labels, shapes = parts
    uniform = bool((shapes == shapes[0]).all())
    starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))[:-1]])
    if not alike:
        join = np.stack if uniform else lambda rows: np.concatenate([r.reshape(-1) for r in rows])
        images, masks = join(images), join(masks) if masks else None
    with tf.device("CPU"):
        return Memory(
            tf.constant(images),
            None if masks is None else tf.constant(masks),
            tf.constant(shapes),
            tf.constant(starts),
            tf.constant(labels),
            uniform,
        )


def _alike(examples: Examples, bar: tqdm) -> tuple[np.ndarray, ...]:
    """Reads images of one known size into place, in batches: several times faster."""
    spec, count = examples.dataset.element_spec, examples.count
    images = np.empty((count, *spec["image"].shape), np.uint8)
    masks = np.empty((count, *spec["image"].shape[:2]), np.int32) if "mask" in spec else None
    labels = np.empty((count, *spec["label"].shape), np.int64)
    at = 0
    for batch in examples.dataset.batch(DECODE_BATCH).as_numpy_iterator():
        end = at + len(batch["label"])
        images[at:end], labels[at:end] = batch["image"], batch["label"]
        if masks is not None:
            masks[at:end] = batch["mask"]
        bar.update(end - at)
        at = end
    shapes = np.broadcast_to(np.array(spec["image"].shape[:2], np.int64), (count, 2)).copy()
    return images, masks, labels, shapes


def _one_by_one(examples: Examples, bar: tqdm) -> tuple:
    images, masks, labels = [], [], []
    for one in examples.dataset.as_numpy_iterator():
        images.append(one["image"])
        labels.append(one["label"])
        if "mask" in one:
            masks.append(one["mask"])
        bar.update()
    shapes = np.array([image.shape[:2] for image in images], np.int64)
    return images, masks, np.array(labels, np.int64), shapes
