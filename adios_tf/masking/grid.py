"""Masks on a coarse grid: grown blocks and single cells (MixMask), and what they share."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.masking.base import MASKINGS, Masking
from adios_tf.masking.sampling import Draw, fold, per_batch, per_image
from adios_tf.serialization import serializable

ATTEMPTS = 10
LOG_ASPECT = math.log(1 / 0.3)


def upsample(grid: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns a grid [B,G,G'] as an image [B,height,width] with hard edges between cells.

    `UserError` where the grid has more cells a side than the image has pixels.
    """
    for cells, pixels in zip(grid.shape[1:3], (height, width), strict=True):
        if cells > pixels:
            raise UserError(f"--grid_size={cells} is finer than an image of {pixels} pixels")
    rows = tf.range(height) * grid.shape[1] // height
    columns = tf.range(width) * grid.shape[2] // width
    return tf.gather(tf.gather(grid, rows, axis=1), columns, axis=2)


def rectangles(
    begins: Sequence[tf.Tensor], sides: Sequence[tf.Tensor | float], shape: Sequence[int]
) -> tf.Tensor:
    """Returns one rectangle per image of that shape, bool [B,height,width].

    `begins` are first row and first column, each [B]; `sides` height and width, [B] or a number.
    """
    within = []
    for begin, side, pixels in zip(begins, sides, shape, strict=True):
        line = tf.range(pixels, dtype=tf.float32)
        end = (begin + side)[:, None]
        within.append((line >= begin[:, None]) & (line < end))
    return within[0][:, :, None] & within[1][:, None, :]


def corners(
    places: Sequence[tf.Tensor], sides: Sequence[tf.Tensor | float], shape: Sequence[int]
) -> list[tf.Tensor]:
    """Returns first row and column [B] of rectangles, uniform over those that lie in the image.

    `places` are two uniform numbers in [0,1), each [B]; sides and shape as for `rectangles`.
    """
    terms = zip(places, sides, shape, strict=True)
    return [tf.floor(place * (pixels - side + 1)) for place, side, pixels in terms]


def choose(noise: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns a bool [...,C] with the `number` smallest of `noise` [...,C] set.

    `number` is an int, or int32 of the shape [...,1].
    """
    order = tf.argsort(noise, axis=-1)
    return tf.argsort(order, axis=-1) < number


def kept_cells(keep_ratio: float, cells: int, what: str) -> int:
    """Returns how many cells stay visible, rounded down; `UserError` if all or none would."""
    kept = int(keep_ratio * cells + 1e-6)
    if not 0 < kept < cells:
        raise UserError(
            f"--keep_ratio={keep_ratio} of {what} leaves {kept} of {cells} cells visible: "
            "take a ratio nearer to 0.5, or a finer grid"
        )
    return kept


def check_ratio(keep_ratio: float) -> float:
    """Returns the ratio; raises `UserError` unless it lies between 0 and 1."""
    if not 0 < keep_ratio < 1:
        raise UserError(
            f"--keep_ratio={keep_ratio} must lie between 0 and 1: it is the visible share"
        )
    return keep_ratio


def grow_blocks(draw: Draw, size: int, target: int, seed: tf.Tensor) -> tf.Tensor:
    """Sets rectangles of cells until `target` are set (BEiT's generator, as MixMask uses it).

    A rectangle has an area from min(4, room) to the room that is left, a log-uniform aspect between
    0.3 and 1/0.3, and sides below the grid's; it is kept where it sets at least one new cell and
    not more than there is room for. Ten rejected in a row end the mask. On the grids where that
    rule leaves no rectangle (target below 4, or fewer than 4 cells a side), the smallest area is
    the target and a side may be the grid's (papers: MixMask, e.1).

    With uniform numbers `draw(seed, width)` -> [B, width] and 1 <= target < size**2, returns bool
    [B,size,size], which may fall short of the target.
    """
    least, longest = min(4, target), size if size < 4 else size - 1

    def room_left(grid: tf.Tensor) -> tf.Tensor:
        return target - tf.reduce_sum(tf.cast(grid, tf.float32), (1, 2))

    def attempt(step: tf.Tensor, grid: tf.Tensor, failed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        u = tf.unstack(draw(fold(seed, step), 4), axis=1)
        room = room_left(grid)
        smallest, largest = tf.minimum(room, least), tf.maximum(room, least)
        area = smallest + u[0] * (largest - smallest)
        aspect = tf.exp((2 * u[1] - 1) * LOG_ASPECT)
        height = tf.round(tf.sqrt(area * aspect))
        width = tf.round(tf.sqrt(area / aspect))
        sides, shape = (height, width), (size, size)
        block = rectangles(corners(u[2:], sides, shape), sides, shape)
        new = tf.reduce_sum(tf.cast(block & ~grid, tf.float32), (1, 2))
        open_ = (room > 0) & (failed < ATTEMPTS)
        taken = open_ & (height <= longest) & (width <= longest) & (new > 0) & (new <= room)
        grid |= block & taken[:, None, None]
        return step + 1, grid, tf.where(taken, 0, failed + 1)

    def unfinished(step: tf.Tensor, grid: tf.Tensor, failed: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any((room_left(grid) > 0) & (failed < ATTEMPTS))

    rows = tf.shape(draw(seed, 1))[0]
    start = tf.zeros([rows, size, size], tf.bool)
    _, grid, _ = tf.while_loop(
        unfinished,
        attempt,
        (tf.constant(0), start, tf.zeros([rows], tf.int32)),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, size, size]),
            tf.TensorShape([None]),
        ),
    )
    return tf.stop_gradient(grid)


def top_up(draw: Draw, grid: tf.Tensor, target: int, seed: tf.Tensor) -> tf.Tensor:
    """Sets random free cells of bool [B,G,G] until `target` are set."""
    size = grid.shape[1]
    flat = tf.reshape(grid, [-1, size * size])
    short = target - tf.reduce_sum(tf.cast(flat, tf.int32), axis=1, keepdims=True)
    noise = tf.where(flat, 2.0, draw(seed, size * size))
    return tf.reshape(flat | choose(noise, short), [-1, size, size])


class GridMasking(Masking):
    """Base of the masks whose cells are hidden or visible as a whole.

    Args:
      grid_size: G, cells a side.
      keep_ratio: the share of the image itself that stays visible.
      per_image: a mask of its own for every image, or one for the whole batch.
    """

    masked_views = (2,)

    def __init__(self, grid_size: int, keep_ratio: float, per_image: bool, **kwargs: Any):
        super().__init__(**kwargs)
        if grid_size < 2:
            raise UserError(f"--grid_size={grid_size}: a grid has at least 2 cells a side")
        self.grid_size, self.keep_ratio = grid_size, check_ratio(keep_ratio)
        self.per_image = per_image

    def visible(self, draw: Draw, seed: tf.Tensor) -> tf.Tensor:
        """Returns which cells stay visible, bool [B,G,G]."""
        raise NotImplementedError

    def masks(
        self, images: tf.Tensor, truth: tf.Tensor | None, seed: tf.Tensor, training: bool = True
    ) -> tf.Tensor:
        height, width = images.shape[1:3]
        rows = tf.shape(images)[0]
        visible = self.visible(per_image(rows) if self.per_image else per_batch, seed)
        hidden = upsample(1 - tf.cast(visible, tf.float32), height, width)
        return tf.broadcast_to(hidden, [rows, height, width])[..., None]


@MASKINGS.register("blocks", "MixMask: blocks of grid cells, grown to an exact share")
@serializable
class Blocks(GridMasking):
    """The visible part is grown from rectangles, and topped up with single cells where short.

    Args:
      grid_size, keep_ratio, per_image: see `GridMasking`.

    Raises:
      UserError: a grid below 2x2, or a share that leaves no cell or all cells visible.
    """

    def __init__(
        self, grid_size: int = 8, keep_ratio: float = 0.5, per_image: bool = False, **kwargs: Any
    ):
        super().__init__(grid_size, keep_ratio, per_image, **kwargs)
        self.kept = kept_cells(keep_ratio, grid_size**2, f"a {grid_size}x{grid_size} grid")

    def visible(self, draw: Draw, seed: tf.Tensor) -> tf.Tensor:
        grid = grow_blocks(draw, self.grid_size, self.kept, fold(seed, 0))
        return top_up(draw, grid, self.kept, fold(seed, 1))


@MASKINGS.register("cells", "MixMask's discrete masks: every grid cell for itself")
@serializable
class Cells(GridMasking):
    """Each cell is visible with probability `keep_ratio`; all or none visible is drawn again.

    Args:
      grid_size, keep_ratio, per_image: see `GridMasking`.

    Raises:
      UserError: a grid below 2x2, or a share outside (0,1).
    """

    def __init__(
        self, grid_size: int = 8, keep_ratio: float = 0.5, per_image: bool = False, **kwargs: Any
    ):
        super().__init__(grid_size, keep_ratio, per_image, **kwargs)

    def visible(self, draw: Draw, seed: tf.Tensor) -> tf.Tensor:
        cells = self.grid_size**2

        def uniform(grid: tf.Tensor) -> tf.Tensor:
            return tf.reduce_all(grid, 1) | ~tf.reduce_any(grid, 1)

        def redraw(step: tf.Tensor, grid: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            anew = draw(fold(seed, step), cells) < self.keep_ratio
            return step + 1, tf.where(uniform(grid)[:, None], anew, grid)

        _, grid = tf.while_loop(
            lambda step, grid: tf.reduce_any(uniform(grid)),
            redraw,
            (tf.constant(1), draw(fold(seed, 0), cells) < self.keep_ratio),
        )
        return tf.reshape(grid, [-1, self.grid_size, self.grid_size])
