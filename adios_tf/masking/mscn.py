"""Masks of masked siamese networks in the manner of MSCN (Jing, Zhu, LeCun, arXiv 2206.07700).

That paper could not be read beyond its introduction. The recipe is a third party's (papers:
MixMask, a.8), with cells picked uniformly; that a mask is drawn per image is inferred.
"""

from typing import Any

import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking.base import MASKINGS, Masking, Masks
from adios_tf.masking.grid import check_ratio, choose, corners, rectangles, upsample
from adios_tf.masking.sampling import fold, per_image
from adios_tf.serialization import serializable

_COLORS = 3


@MASKINGS.register("mscn", "MSCN-style: focal windows and grid masks, also per color channel")
@serializable
class MSCN(Masking):
    """A focal mask hides all but one window; a grid mask hides some cells, per color or not.

    Use it with `--fill=noise` and `--high_pass=11`.

    Args:
      grid_size: G, cells a side.
      keep_least, keep_most: bounds of the uniform share of cells that stays visible.
      focal_prob: how often a mask is focal.
      focal_side: side of the focal window, as a share of the image's.
      channel_prob: how often a grid mask hides cells of each color for itself.

    Raises:
      UserError: a share outside (0,1), or `keep_least` above `keep_most`.
    """

    masked_views = (2,)

    def __init__(
        self,
        grid_size: int = 7,
        keep_least: float = 0.75,
        keep_most: float = 0.95,
        focal_prob: float = 0.2,
        focal_side: float = 200 / 224,
        channel_prob: float = 0.7,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not check_ratio(keep_least) <= check_ratio(keep_most):
            raise UserError(f"--keep_least={keep_least} must not exceed --keep_most={keep_most}")
        self.grid_size, self.keep_least, self.keep_most = grid_size, keep_least, keep_most
        self.focal_prob, self.focal_side = focal_prob, check_ratio(focal_side)
        self.channel_prob = channel_prob

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        """Returns one mask with a sheet per color, [B,H,W,3]."""
        draw = per_image(tf.shape(images)[0])
        height, width = images.shape[1:3]
        kind = draw(fold(seed, 0), 2)
        focal = kind[:, 0] < self.focal_prob
        by_color = kind[:, 1] < self.channel_prob

        u = tf.unstack(draw(fold(seed, 1), 2), axis=1)
        sides = [max(1, round(self.focal_side * pixels)) for pixels in (height, width)]
        begins = corners(u, sides, (height, width))
        outside = ~rectangles(begins, sides, (height, width))

        cells = self.grid_size**2
        kept = self.keep_least + draw(fold(seed, 2), 1) * (self.keep_most - self.keep_least)
        number = tf.cast(tf.round((1 - kept) * cells), tf.int32)
        noise = tf.reshape(draw(fold(seed, 3), _COLORS * cells), [-1, _COLORS, cells])
        noise = tf.where(by_color[:, None, None], noise, noise[:, :1])
        grid = tf.reshape(
            choose(noise, number[:, None]), [-1, _COLORS, self.grid_size, self.grid_size]
        )
        grid = upsample(tf.transpose(grid, [0, 2, 3, 1]), height, width)
        hidden = tf.where(focal[:, None, None, None], outside[..., None], grid)
        return tf.cast(hidden, tf.float32)

    def slots(self, masks: Masks, seed: tf.Tensor) -> list[Masks]:
        """One slot: the three sheets are one mask."""
        return [masks]
