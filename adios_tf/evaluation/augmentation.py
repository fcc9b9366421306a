"""Augmented training batches for probes and fine-tuning, repeatable from (seed, epoch, index)."""

import dataclasses

import tensorflow as tf

from adios_tf.data.augmentation import AugmentConfig, crop_resize, crop_resize_batch, draw
from adios_tf.data.geometry import ImageSpec, normalize
from adios_tf.data.pipeline import shuffled
from adios_tf.evaluation.defaults import AUGMENTATIONS
from adios_tf.registry import check_choice

SHIFT_SIDE = 32  # up to this side `auto` shifts, beyond it crops
SHIFT_SHARE = 8  # images shift by up to an eighth of their side


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to a training image.

    Attributes:
      kind: "crop" is a random resized crop and a flip, as the papers' linear evaluation does on
        ImageNet and STL-10; "shift" reflects an eighth of the side at the border, cuts the side
        out at random, and flips, as it does on CIFAR; "auto" shifts up to 32 pixels. Another kind
        is a `UserError`.
      min_scale: smallest area of a crop.
    """

    kind: str = "auto"
    min_scale: float = 0.08

    def __post_init__(self):
        check_choice("augmentation", self.kind, AUGMENTATIONS)

    def shifts(self, size: int) -> bool:
        return self.kind == "shift" or (self.kind == "auto" and size <= SHIFT_SIDE)

    def line(self, size: int) -> str:
        """Returns what is done to images of this side, for the table."""
        if self.shifts(size):
            return f"shift by up to {size // SHIFT_SHARE} px, flip"
        return f"crop from {self.min_scale:g} of the area, flip"


def augmented_batches(
    source: tf.data.Dataset,
    count: int,
    batch_size: int,
    epochs: int,
    seed: int,
    spec: ImageSpec,
    augmentation: Augmentation,
    buffer: int,
    drop_last: bool = False,
) -> tf.data.Dataset:
    """Returns all batches of all epochs: normalized images [B,S,S,3] float32, labels [B] int64.

    The order of an epoch depends on (seed, epoch), what happens to an image on (seed, epoch, index)
    alone. `source` has `count` dicts with "image", "label", "index", shuffled among `buffer`
    images; an epoch has `steps_per_epoch` batches, of which the last may be smaller unless
    `drop_last`.
    """
    alike = source.element_spec["image"].shape.is_fully_defined()
    shifts = augmentation.shifts(spec.size)
    config = AugmentConfig(
        image_size=spec.size,
        interpolation=spec.interpolation,
        min_scale=augmentation.min_scale,
        jitter_prob=0,
        gray_prob=0,
        blur_prob=0,
        solarize_prob=0,
    )

    def one(epoch: tf.Tensor, example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        image, label = example["image"], example["label"]
        drawn = draw(tf.stack([seed * 1_000_003 + epoch, example["index"]]))
        if shifts:
            image = spec.apply(image)
            return shift(image, drawn), label
        if alike:  # cropped as a batch, which is faster
            return image, drawn, label
        planes, _ = crop_resize(image, drawn, config)
        return tf.transpose(planes, [1, 2, 0]), label

    def finish(images: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        *drawn, labels = rest
        if drawn:
            planes, _ = crop_resize_batch(images, drawn[0], config)
            images = tf.transpose(planes, [0, 2, 3, 1])
        return normalize(images, spec.mean, spec.std), labels

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = shuffled(source, min(count, buffer), tf.constant(seed, tf.int64), epoch)
        found = order.map(lambda e: one(epoch, e), tf.data.AUTOTUNE, deterministic=True)
        return found.batch(batch_size, drop_remainder=drop_last)

    batches = tf.data.Dataset.range(epochs).flat_map(one_epoch)
    steps = epochs * steps_per_epoch(count, batch_size, drop_last)
    batches = batches.map(finish, tf.data.AUTOTUNE, deterministic=True)
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def steps_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """Returns the batches of an epoch over `count` images."""
    return count // batch_size if drop_last else -(-count // batch_size)


def shift(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Returns the float image [S,S,3] moved by up to an eighth of its side, perhaps mirrored.

    `draws` are at least three uniform numbers.
    """
    size = image.shape[0]
    reach = size // SHIFT_SHARE
    padded = tf.pad(image, [[reach, reach], [reach, reach], [0, 0]], "REFLECT")
    top, left = (tf.cast(draws[i] * (2 * reach + 1), tf.int32) for i in (0, 1))
    image = padded[top : top + size, left : left + size]
    image = tf.ensure_shape(image, [size, size, 3])
    return tf.where(draws[2] < 0.5, image[:, ::-1], image)
