"""Ground-truth object masks and the ablations of ADIOS on them (papers: ADIOS, a.11)."""

from typing import Any

import tensorflow as tf

from adios_tf import distribution
from adios_tf.errors import UserError
from adios_tf.masking.base import MASKINGS, Masking
from adios_tf.masking.sampling import permutation
from adios_tf.registry import check_choice
from adios_tf.serialization import serializable

MORPHS = ("none", "erosion", "dilation", "box")


def dilate(masks: tf.Tensor, side: int) -> tf.Tensor:
    """Returns binary masks [B,H,W,N] grown by a square of `side` pixels."""
    return tf.nn.max_pool2d(masks, side, 1, "SAME")


def erode(masks: tf.Tensor, side: int) -> tf.Tensor:
    """Returns binary masks [B,H,W,N] shrunk by a square of `side` pixels.

    What lies outside the image counts as hidden: an object that leaves the image is not eaten
    away along its edge.
    """
    return 1 - dilate(1 - masks, side)


def bounding_box(masks: tf.Tensor) -> tf.Tensor:
    """Returns binary masks [B,H,W,N], each grown to the smallest box around it."""
    box = tf.ones_like(masks)
    for axis, other in ((1, 2), (2, 1)):
        used = tf.reduce_max(masks, axis=other, keepdims=True)
        begun = tf.cumsum(used, axis) > 0
        not_over = tf.cumsum(used, axis, reverse=True) > 0
        box *= tf.cast(begun & not_over, masks.dtype)
    return box


@MASKINGS.register("objects", "ground-truth objects one by one, and what is left (needs masks)")
@serializable
class Objects(Masking):
    """Slot n hides object n (label n + 1) of the image; the last slot hides all the rest.

    An image with fewer objects has empty masks. Where masks are exchanged between images, the
    whole set is, so that the last one is still the rest (the official code exchanges it twice).

    Args:
      num_masks: N, at least 2.
      object_morph: what is done to each object first: nothing, `erosion`, `dilation`, or its
        bounding `box`.
      morph_size: side of the square of erosion and dilation, in pixels.
      object_shuffle: take the masks of another image of the batch.

    Raises:
      UserError: fewer than two masks, or another `object_morph`; when masks are asked for, data
        without ground truth.
    """

    masked_views = (2,)

    def __init__(
        self,
        num_masks: int = 4,
        object_morph: str = "none",
        morph_size: int = 10,
        object_shuffle: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if num_masks < 2:
            raise UserError("--masking=objects needs --num_masks of at least 2: objects and rest")
        check_choice("--object_morph", object_morph, MORPHS)
        self.num_masks, self.object_morph = num_masks, object_morph
        self.morph_size, self.object_shuffle = morph_size, object_shuffle

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        if truth is None:
            raise UserError(
                "--masking=objects hides ground-truth objects, and this data set has no masks: "
                "take one that has (--list says which), or another masking"
            )
        if self.object_shuffle:
            truth = distribution.permute(truth, permutation(tf.shape(truth)[0], seed))
        labels = tf.range(1, self.num_masks)
        objects = tf.cast(tf.cast(truth, tf.int32)[..., None] == labels, tf.float32)
        if self.object_morph == "erosion":
            objects = erode(objects, self.morph_size)
        elif self.object_morph == "dilation":
            objects = dilate(objects, self.morph_size)
        elif self.object_morph == "box":
            objects = bounding_box(objects)
        rest = 1 - tf.reduce_max(objects, axis=-1, keepdims=True)
        return tf.concat([objects, rest], axis=-1)
