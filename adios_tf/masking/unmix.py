"""Un-Mix (Shen et al., arXiv 2003.05438) as masks, alone and with MixMask's blocks.

Blending two images is a mask of one constant value, and pasting a box is a mask of that box: with
`--fill=mix` both become Un-Mix, its loss included.
"""

from typing import Any

import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking.base import MASKINGS, Masking
from adios_tf.masking.grid import Blocks, rectangles
from adios_tf.masking.sampling import bisect, fold, per_batch, per_image
from adios_tf.serialization import serializable

_BISECTIONS = 24


def boxes(share: tf.Tensor, place: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns boxes that hide about `share` [B] of an image, bool [B,height,width] (CutMix).

    A box's sides are sqrt(share) of the image's, before what reaches beyond the image is cut off;
    its center lies at `place` [B,2] in [0,1).
    """
    halves = [tf.floor(tf.floor(pixels * tf.sqrt(share)) / 2) for pixels in (height, width)]
    centers = [tf.floor(place[:, n] * pixels) for n, pixels in enumerate((height, width))]
    begins = [center - half for center, half in zip(centers, halves, strict=True)]
    return rectangles(begins, [2 * half for half in halves], (height, width))


def symmetric_beta(uniform: tf.Tensor, beta: float) -> tf.Tensor:
    """Returns Beta(beta, beta) variates from uniform ones, by bisection of the distribution."""

    def below(value: tf.Tensor) -> tf.Tensor:
        return tf.math.betainc(beta, beta, value) < uniform

    return bisect(below, tf.zeros_like(uniform), tf.ones_like(uniform), _BISECTIONS)


@MASKINGS.register("unmix", "Un-Mix: two images blended, or a box of one in the other")
@serializable
class UnMix(Masking):
    """One mask for the batch: constant 1 - lambda, or a box; lambda ~ Beta(beta, beta).

    The official code draws one lambda for the batch (papers: MixMask, a.6). A box's lambda is
    the share that is really visible.

    Args:
      unmix_prob: how often the whole images are blended rather than a box pasted.
      unmix_beta: of the Beta distribution; 1 is uniform.
      per_image: a mask of its own for every image.

    Raises:
      UserError: `unmix_beta` is not above 0.
    """

    masked_views = (2,)
    fills = ("mix",)

    def __init__(
        self,
        unmix_prob: float = 0.5,
        unmix_beta: float = 1.0,
        per_image: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not unmix_beta > 0:
            raise UserError(f"--unmix_beta={unmix_beta} must be above 0; 1 is usual")
        self.unmix_prob, self.unmix_beta, self.per_image = unmix_prob, unmix_beta, per_image

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        rows, (height, width) = tf.shape(images)[0], images.shape[1:3]
        u = (per_image(rows) if self.per_image else per_batch)(seed, 4)
        hidden = symmetric_beta(u[:, 0], self.unmix_beta)
        box = tf.cast(boxes(hidden, u[:, 1:3], height, width), tf.float32)
        blend = (u[:, 3] < self.unmix_prob)[:, None, None]
        masks = tf.where(blend, hidden[:, None, None], box)
        return tf.broadcast_to(masks, [rows, height, width])[..., None]


@MASKINGS.register("unmix_blocks", "Un-Mix and MixMask at once: two mixtures of every image")
@serializable
class UnMixBlocks(Masking):
    """Two slots, one masked by `UnMix` and one by `Blocks`, and their losses summed.

    `Mix` gives the second slot a random partner, so that the two mixtures of an image show
    different others (papers: MixMask, a.6).

    Args:
      grid_size, keep_ratio: see `Blocks`.
      unmix_prob, unmix_beta: see `UnMix`.
      per_image: of both.

    Raises:
      UserError: see both.
    """

    masked_views = UnMix.masked_views
    fills = UnMix.fills
    num_masks = 2

    def __init__(
        self,
        grid_size: int = 8,
        keep_ratio: float = 0.5,
        unmix_prob: float = 0.5,
        unmix_beta: float = 1.0,
        per_image: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.unmix = UnMix(unmix_prob, unmix_beta, per_image)
        self.blocks = Blocks(grid_size, keep_ratio, per_image)

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        parts = (self.unmix, self.blocks)
        drawn = [part.masks(images, truth, fold(seed, n)) for n, part in enumerate(parts)]
        return tf.concat(drawn, axis=-1)
