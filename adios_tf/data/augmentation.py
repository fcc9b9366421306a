"""Two views of an image: the papers' random augmentations, repeatable from a seed.

A view depends on its image and its own seed and on nothing else: not on the batch it sits in,
the thread, or the order in which images arrive. The work is split in two. `crop_resize` and
`crop_resize_batch` do the geometry; `recolor` does the rest for a whole batch at once, color
planes first ([B, 3, S, S]), because on small images the price is per op and not per pixel.
"""

import dataclasses
import itertools
import math

import numpy as np
import tensorflow as tf

from adios_tf.data.geometry import (
    CROP_DRAWS,
    crop_box,
    nearest_rows,
    resize_image,
    resize_matrix,
    to_float,
)
from adios_tf.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, the gray of the papers' image library
BLUR_REACH = 3.0  # the Gaussian is cut at this many standard deviations
DRAWS = CROP_DRAWS + 11  # uniform numbers that make one view
_PHILOX = 1  # tf.random.Algorithm.PHILOX
ORDERS = tuple(itertools.permutations(range(3)))


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Parameters of one view; the defaults are those behind the flags of ADIOS.

    Source: ADIOS (arXiv 2201.13100), augmentations of its released recipes. A jitter strength
    s draws a factor from U(max(0, 1 - s), 1 + s); `hue` draws a shift from U(-hue, hue) in
    turns of the color circle. Scales are shares of the image's area, sigmas are pixels of
    the view.

    Raises:
      UserError: a probability outside [0, 1], an empty range, a side below 1.
    """

    image_size: int = 32
    min_scale: float = 0.08
    max_scale: float = 1.0
    min_ratio: float = 3 / 4
    max_ratio: float = 4 / 3
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter_prob: float = 0.8
    gray_prob: float = 0.2
    blur_prob: float = 0.5
    min_sigma: float = 0.1
    max_sigma: float = 2.0
    solarize_prob: float = 0.0
    flip_prob: float = 0.5
    interpolation: str = "bicubic"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_prob") and not 0 <= value <= 1:
                raise UserError(f"{field.name}={value}: a probability lies between 0 and 1")
        if self.image_size < 1:
            raise UserError(f"image_size={self.image_size}: give a side of at least 1 pixel")
        for name in ("brightness", "contrast", "saturation"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)}: a strength is at least 0")
        if not 0 <= self.hue <= 0.5:
            raise UserError(f"hue={self.hue}: give a shift between 0 and 0.5 of a turn")
        for name, limit in (("scale", 1.0), ("ratio", math.inf), ("sigma", math.inf)):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if not 0 < low <= high <= limit:
                raise UserError(f"min_{name}={low}, max_{name}={high}: give 0 < min <= max")


def augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    config: AugmentConfig,
    mask: tf.Tensor | None = None,
) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Draws one view of an image.

    In the order of ADIOS: random resized crop (antialiased), color jitter, gray,
    Gaussian blur, solarize, horizontal flip. The four jitters come in a random order and each
    clips to [0, 1]. Departures: nothing is rounded to 8 bits on the way, and the blur is a
    true Gaussian where the papers' library stacks box filters.

    Args:
      image: [h, w, 3], uint8 or floating in [0, 1].
      seed: [2] integers; the same seed gives the same view, in and outside of tf.data.
      config: the parameters; `config.image_size` is the side S of the view.
      mask: [h, w] integer label map of the image, cropped and flipped along.

    Returns:
      The view [S, S, 3], float32 in [0, 1]; with a mask also its crop [S, S], int32, nearest.
    """
    draws = draw(seed)
    view, crop = crop_resize(image, draws, config, mask)
    view = tf.transpose(recolor(view[None], draws[None], config)[0], [1, 2, 0])
    return view if mask is None else (view, crop)


def draw(seed: tf.Tensor) -> tf.Tensor:
    """Returns the [DRAWS] uniform numbers that make one view, from its seed [2].

    One random op in all: it costs as much as the arithmetic on a small image.
    """
    # The ops behind tf.random.stateless_uniform, for many images one after another.
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return tf.raw_ops.StatelessRandomUniformV2(shape=[DRAWS], key=key, counter=counter, alg=_PHILOX)


def crop_resize(
    image: tf.Tensor, draws: tf.Tensor, config: AugmentConfig, mask: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Crops, resizes and flips one image of any size.

    The flip comes last in the papers; it commutes with everything after the crop, and here
    it is free.

    Args:
      image: [h, w, 3] uint8 or floating in [0, 1].
      draws: [DRAWS] from `draw`.
      config: the parameters.
      mask: [h, w] integer label map or None.

    Returns:
      [3, S, S] float32 in [0, 1] and [S, S] int32, or None without a mask.
    """
    size = config.image_size
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    top, left, box_height, box_width = crop_box(height, width, draws, config)
    flip = draws[CROP_DRAWS] < config.flip_prob
    box = image[top : top + box_height, left : left + box_width]
    view = tf.transpose(resize_image(to_float(box), size, config.interpolation), [2, 0, 1])
    view = tf.cond(flip, lambda: view[:, :, ::-1], lambda: view)
    if mask is None:
        return view, None
    rows = nearest_rows(top, box_height, size)
    columns = nearest_rows(left, box_width, size, flip)
    return view, tf.gather(tf.gather(tf.cast(mask, tf.int32), rows), columns, axis=1)


def crop_resize_batch(
    images: tf.Tensor, draws: tf.Tensor, config: AugmentConfig, masks: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """`crop_resize` for images of one size: resizing as two small matrix products.

    Several times faster than one image at a time up to about 64 pixels; equal to it to
    rounding.

    Args:
      images: [B, h, w, 3] uint8 or floating in [0, 1].
      draws: [B, DRAWS] from `draw`.
      config: the parameters.
      masks: [B, h, w] integer label maps or None.

    Returns:
      [B, 3, S, S] float32 in [0, 1] and [B, S, S] int32, or None without masks.
    """
    size = config.image_size
    height, width = images.shape[1], images.shape[2]
    top, left, box_height, box_width = crop_box(height, width, draws, config)
    flip = draws[:, CROP_DRAWS] < config.flip_prob
    down = resize_matrix(top, box_height, height, size, None, config.interpolation)
    across = resize_matrix(left, box_width, width, size, flip, config.interpolation)
    planes = to_float(tf.transpose(images, [0, 3, 1, 2]))
    # Matrices that share a factor are stacked: a broadcast product costs more.
    narrow = tf.matmul(tf.reshape(planes, [-1, 3 * height, width]), across, transpose_b=True)
    views = _clip(tf.matmul(down[:, None], tf.reshape(narrow, [-1, 3, height, size])))
    if masks is None:
        return views, None
    rows, columns = nearest_rows(top, box_height, size), nearest_rows(left, box_width, size, flip)
    masks = tf.gather(tf.cast(masks, tf.int32), rows, batch_dims=1)
    return views, tf.gather(masks, columns, axis=2, batch_dims=1)


def recolor(planes: tf.Tensor, draws: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Color jitter, gray, blur and solarize.

    Args:
      planes: [B, 3, S, S] float32 in [0, 1].
      draws: [B, DRAWS] from `draw`.
      config: the parameters.

    Returns:
      [B, 3, S, S] float32 in [0, 1].
    """
    u = tf.unstack(draws[:, CROP_DRAWS + 1 :], axis=1)
    if config.jitter_prob > 0:
        planes = _jitter(planes, u[:6], config)
    if config.gray_prob > 0:
        chosen = (u[6] < config.gray_prob)[:, None, None, None]
        planes = tf.where(chosen, _gray(planes), planes)
    if config.blur_prob > 0:
        sigma = config.min_sigma + u[8] * (config.max_sigma - config.min_sigma)
        planes = _on_subset(
            u[7] < config.blur_prob,
            lambda x, s: gaussian_blur(x, s, config.max_sigma),
            planes,
            sigma,
        )
    if config.solarize_prob > 0:
        chosen = (u[9] < config.solarize_prob)[:, None, None, None]
        planes = tf.where(chosen, solarize(planes), planes)
    return planes


def solarize(images: tf.Tensor) -> tf.Tensor:
    """Inverts what is at least 128 of 255."""
    return tf.where(images >= 128 / 255, 1 - images, images)


def gaussian_blur(planes: tf.Tensor, sigma: tf.Tensor, max_sigma: float) -> tf.Tensor:
    """Blurs each image by its own Gaussian; beyond the border the image is mirrored.

    Args:
      planes: [B, C, S, S].
      sigma: [B] in pixels.
      max_sigma: the largest sigma; it fixes the kernel's length for the graph.

    Returns:
      [B, C, S, S].
    """
    size = planes.shape[2]
    # Mirroring needs at least as many pixels as it adds.
    reach = min(math.ceil(BLUR_REACH * max_sigma), size)
    # As matrices: a pixel sees each other one where it lies and mirrored beyond either border.
    one, other = np.arange(size)[:, None], np.arange(size)
    distance = np.stack([one - other, one + other + 1, 2 * size - 1 - one - other])
    square = np.where(abs(distance) <= reach, np.square(distance), np.inf).astype(np.float32)
    weights = tf.reduce_sum(tf.exp(-0.5 * square / tf.square(sigma)[:, None, None, None]), axis=1)
    weights /= tf.reduce_sum(weights, axis=2, keepdims=True)
    rows = tf.reshape(planes, [-1, planes.shape[1] * size, size])
    across = tf.reshape(tf.matmul(rows, weights, transpose_b=True), tf.shape(planes))
    return tf.matmul(weights[:, None], across)


def shift_hue(planes: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
    """Turns the color circle of each image; saturation and value (HSV) stay.

    Args:
      planes: [B, 3, S, S] float32 in [0, 1].
      delta: [B] in turns.

    Returns:
      [B, 3, S, S], what `tf.image.adjust_hue` gives for each image with its own shift.
    """
    red, green, blue = tf.unstack(planes, axis=1)
    top = tf.maximum(tf.maximum(red, green), blue)
    low = tf.minimum(tf.minimum(red, green), blue)
    chroma = top - low
    safe = tf.where(chroma > 0, chroma, tf.ones_like(chroma))
    sector = tf.where(
        red >= top,
        (green - blue) / safe,
        tf.where(green >= top, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector += 6 * delta[:, None, None] + 6
    sector -= 6 * tf.floor(sector / 6)
    weights = (
        tf.abs(sector - 3) - 1,
        2 - tf.abs(sector - 2),
        2 - tf.abs(sector - 4),
    )
    return tf.stack([low + chroma * tf.clip_by_value(w, 0.0, 1.0) for w in weights], axis=1)


def _gray(planes: tf.Tensor) -> tf.Tensor:
    red, green, blue = (planes[:, i : i + 1] for i in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _clip(planes: tf.Tensor) -> tf.Tensor:
    """`tf.clip_by_value(planes, 0, 1)` in one op."""
    return tf.raw_ops.ClipByValue(t=planes, clip_value_min=0.0, clip_value_max=1.0)


def _jitter(planes: tf.Tensor, u: list[tf.Tensor], config: AugmentConfig) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, each image in its own random order.

    The first three are one formula, f x + (1 - f) base, with base black, the mean gray of the
    image, or the gray of the pixel. Each round blends every image by whichever of the three
    is its turn; before each round (and after the last) the hue of those turns whose place it
    is. An image that is not jittered has f = 1 and no hue shift, which is exact.
    """
    chosen = u[0] < config.jitter_prob
    strengths = tf.constant([config.brightness, config.contrast, config.saturation], tf.float32)
    low, high = tf.maximum(1 - strengths, 0.0), 1 + strengths
    factors = low + tf.stack(u[1:4], axis=1) * (high - low)
    factors = tf.where(chosen[:, None], factors, tf.ones_like(factors))
    delta = (2 * u[4] - 1) * config.hue
    place = tf.cast(u[5] * 4 * len(ORDERS), tf.int32)
    order = tf.gather(tf.constant(ORDERS), place // 4)
    factors = tf.gather(factors, order, batch_dims=1)
    hue_place = tf.where(chosen & (config.hue > 0), place % 4, -1)
    for turn in range(4):
        if config.hue > 0:
            planes = _on_subset(tf.equal(hue_place, turn), shift_hue, planes, delta)
        if turn < 3:
            planes = _blend(planes, factors[:, turn], order[:, turn])
    return planes


def _blend(planes: tf.Tensor, factor: tf.Tensor, kind: tf.Tensor) -> tf.Tensor:
    """One round of `_jitter`: a 3x3 matrix and an offset per image, from [B] factors and kinds."""
    size = planes.shape[-1]
    pixels = tf.reshape(planes, [-1, 3, size * size])
    luma = tf.constant(LUMA)
    less = 1 - factor
    mean = tf.reduce_sum(tf.reduce_mean(pixels, axis=2) * luma, axis=1)
    offset = tf.where(kind == 1, less * mean, tf.zeros_like(less))
    gray = tf.where(kind == 2, less, tf.zeros_like(less))
    matrix = factor[:, None, None] * tf.eye(3) + gray[:, None, None] * luma
    pixels = _clip(tf.matmul(matrix, pixels) + offset[:, None, None])
    return tf.reshape(pixels, [-1, 3, size, size])


def _on_subset(chosen: tf.Tensor, function, planes: tf.Tensor, parameter: tf.Tensor) -> tf.Tensor:
    """Applies `function(planes, parameter)` to the chosen images only."""
    where = tf.where(chosen)
    changed = function(tf.gather_nd(planes, where), tf.gather_nd(parameter, where))
    return tf.tensor_scatter_nd_update(planes, where, changed)
