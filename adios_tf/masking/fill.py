"""What covers the hole: `fill(image, mask)` for a hidden region (mask 1 = hidden)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from adios_tf.objectives import Embedding, Pair
from adios_tf.registry import Registry

FILLS = Registry("fill")


class Filled(NamedTuple):
    """A filled view.

    Attributes:
      images: [B,H,W,3].
      partner: int32 [global batch], which image fills image i; None where no other image does.
    """

    images: tf.Tensor
    partner: tf.Tensor | None = None


def per_channel(mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns a mask [B,H,W] or [B,H,W,3] as [B,H,W,1] or [B,H,W,3], ready to multiply images."""
    return tf.cast(mask if mask.shape.rank == 4 else mask[..., None], dtype)


class Fill(keras.layers.Layer):
    """Base class of fills."""

    clean_weight: float | None = None

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, slot: int = 0) -> Filled:
        """Returns the images with the hidden region covered.

        Args:
          images: normalised, [B,H,W,3].
          mask: [B,H,W], or [B,H,W,3] with a sheet per colour, in [0,1], 1 = hidden; the
            gradient flows through it.
          seed: int32 [2], another one for each slot.
          slot: which of the update's slots the mask is.
        """
        raise NotImplementedError

    def weigh(
        self,
        pairs: Sequence[Pair],
        views: Mapping[str, Embedding],
        slot: Mapping[str, tf.Tensor],
        filled: Mapping[str, Filled],
    ) -> tuple[Sequence[Pair], Mapping[str, Embedding]]:
        """Returns the pairs of a slot, and the embeddings they name, as this fill wants them.

        Args:
          pairs: what the objective asks for.
          views: embeddings of clean and occluded views.
          slot: {view: mask [B,H,W] or [B,H,W,3]}.
          filled: {view: what `cover` returned}.
        """
        return pairs, views


@FILLS.register("erase", "zero in normalised space: the data set's mean colour")
class Erase(Fill):
    """ADIOS: x * (1 - m)."""

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, slot: int = 0) -> Filled:
        return Filled(images * (1 - per_channel(mask, images.dtype)))
