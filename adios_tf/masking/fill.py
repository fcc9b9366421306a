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


class Fill(keras.layers.Layer):
    """Base class of fills."""

    clean_weight: float | None = None

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> Filled:
        """Returns the images with the hidden region covered.

        Args:
          images: normalised, [B,H,W,3].
          mask: [B,H,W] in [0,1], 1 = hidden; the gradient flows through it.
          seed: int32 [2].
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
          slot: {view: mask [B,H,W]}.
          filled: {view: what `cover` returned}.
        """
        return pairs, views


@FILLS.register("erase", "zero in normalised space: the data set's mean colour")
class Erase(Fill):
    """ADIOS: x * (1 - m)."""

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> Filled:
        return Filled(images * tf.cast(1 - mask, images.dtype)[..., None])
