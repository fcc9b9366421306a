"""Where a crop lies and how it becomes a square: boxes, resizing, label maps."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.registry import unknown_name

CROP_TRIES = 10  # boxes proposed before falling back to the middle of the image
CROP_DRAWS = 2 * CROP_TRIES + 2
INTERPOLATIONS = {"bicubic": "keyscubic", "bilinear": "triangle"}  # name: TensorFlow's kernel


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """Side, normalization and way of resizing.

    Attributes:
      size: side S.
      mean, std: per channel, of images in [0,1].
      resize, crop_ratio, interpolation: see `evaluation_transform`.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squash"
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"

    def apply(self, image: tf.Tensor, mask: tf.Tensor | None = None) -> Any:
        """Returns what `evaluation_transform` returns of the image, not normalized."""
        how = self.resize, self.crop_ratio, mask, self.interpolation
        return evaluation_transform(image, self.size, *how)

    def __str__(self) -> str:
        kept = f" of {self.crop_ratio:g}" if self.resize == "center_crop" else ""
        kernel = "" if self.interpolation == "bicubic" else f", {self.interpolation}"
        return f"{self.size} px, {self.resize}{kept}{kernel}"


def crop_box(
    height: int | tf.Tensor, width: int | tf.Tensor, draws: tf.Tensor, config: Any
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Chooses the box of a random resized crop.

    Ten boxes are proposed, with the area uniform in [min_scale, max_scale] of the image and
    the logarithm of width / height uniform in its range; the first that fits is taken, at a
    uniform place. If none fits, the largest central box with an allowed ratio is.

    Args:
      height, width: of the images, integers.
      draws: [..., at least CROP_DRAWS] uniform numbers.
      config: an `AugmentConfig`.

    Returns:
      top, left, height, width, int32 of shape draws.shape[:-1].
    """
    high, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, top_scale = config.min_scale, config.max_scale
    area = high * wide * (low + draws[..., :CROP_TRIES] * (top_scale - low))
    low, top_ratio = math.log(config.min_ratio), math.log(config.max_ratio)
    ratio = tf.exp(low + draws[..., CROP_TRIES : 2 * CROP_TRIES] * (top_ratio - low))
    widths = tf.round(tf.sqrt(area * ratio))
    heights = tf.round(tf.sqrt(area / ratio))
    fits = (widths >= 1) & (widths <= wide) & (heights >= 1) & (heights <= high)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=-1)[..., None]
    found = tf.reduce_any(fits, axis=-1)

    middle_ratio = tf.clip_by_value(wide / high, config.min_ratio, config.max_ratio)
    middle_width = tf.maximum(tf.minimum(wide, tf.round(high * middle_ratio)), 1)
    middle_height = tf.maximum(tf.minimum(high, tf.round(wide / middle_ratio)), 1)
    batch_dims = len(draws.shape) - 1

    def pick(values: tf.Tensor, fallback: tf.Tensor) -> tf.Tensor:
        return tf.where(found, tf.gather(values, first, batch_dims=batch_dims)[..., 0], fallback)

    box_width, box_height = pick(widths, middle_width), pick(heights, middle_height)
    at = tf.where(found[..., None], draws[..., 2 * CROP_TRIES : CROP_DRAWS], 0.5)
    top = tf.floor(at[..., 0] * (high - box_height + 1))
    left = tf.floor(at[..., 1] * (wide - box_width + 1))
    # A draw next to 1 may round up to one past the last place.
    top, left = tf.minimum(top, high - box_height), tf.minimum(left, wide - box_width)
    return tuple(tf.cast(x, tf.int32) for x in (top, left, box_height, box_width))


def resize_matrix(
    start: tf.Tensor,
    length: tf.Tensor,
    side: int,
    size: int,
    flip: tf.Tensor | None = None,
    interpolation: str = "bicubic",
) -> tf.Tensor:
    """The antialiased resizing of stretches of a line, as matrices.

    Keys' kernel (a = -1/2) or the triangle, widened by the factor of reduction, cut at the ends
    of the stretch and normalized there.

    Args:
      start, length: [B] int32, the stretch to resize.
      side: the number of pixels of the line.
      size: the number of pixels wanted.
      flip: [B] bool, whether the result is mirrored.
      interpolation: one of `INTERPOLATIONS`.

    Returns:
      [B, size, side] float32; rows sum to one.
    """
    start, length = (tf.cast(x, tf.float32)[:, None, None] for x in (start, length))
    step = length / size
    reach = tf.maximum(step, 1.0)  # half the width of the triangle
    wanted = tf.range(size, dtype=tf.float32)[None, :, None]
    if flip is not None:
        wanted = tf.where(flip[:, None, None], size - 1 - wanted, wanted)
    pixel = tf.range(side, dtype=tf.float32)[None, None, :] + 0.5 - start
    pixel = tf.where((pixel > 0) & (pixel < length), pixel, 1e9)  # far from all others
    distance = tf.abs(pixel / reach - (wanted + 0.5) * (step / reach))
    if _kernel(interpolation) == "triangle":
        weight = tf.nn.relu(1 - distance)
    else:
        # Twice Keys' kernel, in powers of what is left of its two pixels, and of one.
        two = tf.nn.relu(2 - distance)
        one = two - 1
        near = tf.nn.relu(one)
        weight = two * two * one + near * near * (2 - 4 * near)
    return weight / tf.reduce_sum(weight, axis=-1, keepdims=True)


def _kernel(interpolation: str) -> str:
    if interpolation not in INTERPOLATIONS:
        raise unknown_name("interpolation", interpolation, INTERPOLATIONS)
    return INTERPOLATIONS[interpolation]


def resize_image(image: tf.Tensor, size: int, interpolation: str = "bicubic") -> tf.Tensor:
    """Resizes [h, w, 3] float to [size, size, 3] with antialiasing; overshoot is clipped."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    return _window(image, float(size) / shape, tf.zeros(2), size, interpolation)


def _window(
    image: tf.Tensor, scale: tf.Tensor, corner: tf.Tensor, size: int, interpolation: str
) -> tf.Tensor:
    """Returns the window [...,size,size,3] at `corner` of images scaled by `scale`, both [2]."""
    # The op behind tf.image.resize(antialias=True), without that function's shape juggling.
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image if len(image.shape) == 4 else image[None],
        size=[size, size],
        scale=scale,
        translation=-corner,
        kernel_type=_kernel(interpolation),
        antialias=True,
    )
    resized = tf.ensure_shape(tf.clip_by_value(resized, 0.0, 1.0), [None, size, size, 3])
    return resized if len(image.shape) == 4 else resized[0]


def nearest_rows(
    start: tf.Tensor, length: tf.Tensor, size: int, flip: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns [..., size] int32: the pixel of a line nearest to each pixel of its resizing.

    Args:
      start, length: [...] int32, the stretch that is resized.
      size: the number of pixels wanted.
      flip: [...] bool, whether the result is mirrored.
    """
    start, length = start[..., None], length[..., None]
    wanted = tf.range(size)
    if flip is not None:
        wanted = tf.where(flip[..., None], size - 1 - wanted, wanted)
    return start + (2 * wanted + 1) * length // (2 * size)


def to_float(image: tf.Tensor) -> tf.Tensor:
    """Returns the image as float32 in [0, 1]; floating images are taken to be in [0, 1]."""
    if image.dtype == tf.uint8:
        return tf.cast(image, tf.float32) * (1 / 255)
    return tf.cast(image, tf.float32)


def evaluation_transform(
    image: tf.Tensor,
    image_size: int,
    resize: str = "squash",
    crop_ratio: float = 0.875,
    mask: tf.Tensor | None = None,
    interpolation: str = "bicubic",
) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Brings an image to a square without chance.

    Args:
      image: [h, w, 3], uint8 or floating in [0, 1], or [B, h, w, 3]; so are mask and result.
      image_size: the side S of the result.
      resize: "squash" resizes both sides to S; "center_crop" resizes the shorter side to
        S / crop_ratio and cuts the central S pixels out, as torchvision's Resize and CenterCrop
        do. ADIOS resizes the shorter side to 256 whatever S is, which at S = 96 shows 14 % of
        the picture; `crop_ratio=0.375` repeats that.
      crop_ratio: see `resize`.
      mask: [h, w] integer label map, brought along by nearest neighbor.
      interpolation: one of `INTERPOLATIONS`, antialiased.

    Returns:
      [S, S, 3] float32 in [0, 1]; with a mask also [S, S] int32.

    Raises:
      UserError: an unknown `resize` or `interpolation`, or a crop ratio outside (0, 1].
    """
    if resize not in ("squash", "center_crop"):
        raise UserError(f"unknown resize {resize!r}: known are squash, center_crop")
    if not 0 < crop_ratio <= 1:
        raise UserError(f"crop_ratio={crop_ratio}: give a share above 0 and at most 1")
    sides = tf.shape(image)[-3:-1]
    scaled = tf.constant([image_size, image_size])
    if resize == "center_crop":
        scaled = round(image_size / crop_ratio) * sides // tf.reduce_min(sides)
    corner = tf.round(tf.cast(scaled - image_size, tf.float32) / 2)
    scale = tf.cast(scaled, tf.float32) / tf.cast(sides, tf.float32)
    view = _window(to_float(image), scale, corner, image_size, interpolation)
    if mask is None:
        return view
    pixels = tf.range(image_size)[:, None] + tf.cast(corner, tf.int32)
    rows, columns = tf.unstack((2 * pixels + 1) * sides // (2 * scaled), axis=1)
    return view, tf.gather(tf.gather(tf.cast(mask, tf.int32), rows, axis=-2), columns, axis=-1)


def normalize(images: tf.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> tf.Tensor:
    """Returns `images` [...,3] less the `mean`, divided by the deviation `std`, in float32."""
    return (images - tf.constant(mean, tf.float32)) / tf.constant(std, tf.float32)
