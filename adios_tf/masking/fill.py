"""What covers the hole: `fill(image, mask)` for a hidden region (mask 1 = hidden)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from adios_tf import distribution
from adios_tf.errors import UserError
from adios_tf.nets.filters import gaussian_blur
from adios_tf.objectives import Embedding, Pair, View
from adios_tf.registry import Registry
from adios_tf.serialization import Configured, serializable

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


class Fill(Configured, keras.layers.Layer):
    """Base class of fills. A subclass covers what a mask hides.

    Attributes:
      clean_weight: weight of the objective between the two clean views; None = as the masking.
    """

    clean_weight: float | None = None

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, slot: int = 0) -> Filled:
        """Returns the images with the hidden region covered.

        Args:
          images: normalized, [B,H,W,3].
          mask: [B,H,W], or [B,H,W,3] with a sheet per color, in [0,1], 1 = hidden; the
            gradient flows through it.
          seed: int32 [2], another one for each slot.
          slot: which of the update's slots the mask is.
        """
        raise NotImplementedError

    def weigh(
        self,
        pairs: Sequence[Pair],
        views: Mapping[View, Embedding],
        slot: Mapping[int, tf.Tensor],
        filled: Mapping[int, Filled],
    ) -> tuple[Sequence[Pair], Mapping[View, Embedding]]:
        """Returns the pairs of a slot, and the embeddings they name, as this fill wants them.

        Args:
          pairs: what the objective asks for.
          views: embeddings of clean and occluded views.
          slot: {index of the view: mask [B,H,W] or [B,H,W,3]}.
          filled: {index of the view: what `cover` returned}.
        """
        return pairs, views


@FILLS.register("erase", "zero in normalized space: the data set's mean color")
@serializable
class Erase(Fill):
    """ADIOS: x * (1 - m)."""

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, slot: int = 0) -> Filled:
        return Filled(images * (1 - per_channel(mask, images.dtype)))


class Paint(Fill):
    """Base of the fills that paint something over the hole: x (1 - m) + paint m."""

    def paint(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns what covers the hole, broadcastable to the images [B,H,W,3]."""
        raise NotImplementedError

    def cover(self, images: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, slot: int = 0) -> Filled:
        hidden = per_channel(mask, images.dtype)
        return Filled(images * (1 - hidden) + self.paint(images, seed) * hidden)


@FILLS.register("mean", "the image's own mean color")
@serializable
class Mean(Paint):
    """The mean over the whole image, hidden part included, so that it tells of what is hidden."""

    def paint(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(images, axis=(1, 2), keepdims=True)


@FILLS.register("noise", "Gaussian noise")
@serializable
class Noise(Paint):
    """Normal noise of mean zero.

    Args:
      noise_std: standard deviation, in normalized (and high-passed) space; 0.18 in MSCN.
      noise_tile: side in pixels of one patch of noise that is repeated over all images of the
        batch, 32 in MSCN; 0 draws every pixel of every image anew.

    Raises:
      UserError: a negative number.
    """

    def __init__(self, noise_std: float = 0.18, noise_tile: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        if noise_std < 0 or noise_tile < 0:
            raise UserError(
                f"--noise_std={noise_std} and --noise_tile={noise_tile} must not be negative"
            )
        self.noise_std, self.noise_tile = noise_std, noise_tile

    def paint(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        side = self.noise_tile

        def sample(*shape: Any) -> tf.Tensor:
            return tf.random.stateless_normal(shape, seed, stddev=self.noise_std)

        if side:
            noise = sample(1, side, side, images.shape[-1])
            for axis in (1, 2):
                noise = tf.gather(noise, tf.range(images.shape[axis]) % side, axis=axis)
        else:
            rows = tf.shape(images)[0]
            noise = distribution.draw(lambda total: sample(total, *images.shape[1:]), rows)
        return tf.cast(noise, images.dtype)


@FILLS.register("blur", "the image itself, strongly blurred")
@serializable
class Blur(Paint):
    """A Gaussian blur of the image itself.

    Args:
      fill_blur: standard deviation of the Gaussian, as a share of the image's side.

    Raises:
      UserError: `fill_blur` is not above 0.
    """

    def __init__(self, fill_blur: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        if not fill_blur > 0:
            raise UserError(f"--fill_blur={fill_blur} must be above 0")
        self.fill_blur = fill_blur

    def paint(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        sigma = self.fill_blur * images.shape[1]
        side = 2 * min(math.ceil(2 * sigma), images.shape[1] - 1) + 1
        return gaussian_blur(images, side, sigma)
