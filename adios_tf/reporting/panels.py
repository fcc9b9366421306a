"""The picture of what a masker does: one row per image, one column per thing to see."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adios_tf.reporting import palette

CELL = 96  # pixels that a small image is blown up to
LARGEST_CELL = 144  # and a large one shrunk to
_GAP, _GROUP_GAP, _MARGIN, _TITLE, _CHIP = 3, 12, 10, 18, 5
_PAPER, _INK = (255, 255, 255), (34, 34, 34)


def segmentation(masks: np.ndarray) -> np.ndarray:
    """Returns which slot hides a pixel most: [B,H,W,N] -> [B,H,W] of 0..N-1, or -1.

    A pixel is -1 where it is more visible than hidden by any slot; visible is what the slots
    leave of 1, so masks that share every pixel have none.
    """
    visible = np.clip(1.0 - masks.sum(axis=-1, keepdims=True), 0.0, None)
    return np.concatenate([visible, masks], axis=-1).argmax(axis=-1) - 1


def color_labels(labels: np.ndarray, background: int) -> np.ndarray:
    """Returns integer labels [...] as uint8 colors [...,3]; `background` is gray.

    Label background + 1 gets the first color, and so on.
    """
    table = [palette.NOTHING, *palette.SLOTS]
    colors = np.array([palette.rgb(color) for color in table], np.uint8)
    rank = np.asarray(labels, np.int64) - background
    return colors[np.where(rank <= 0, 0, (rank - 1) % len(palette.SLOTS) + 1)]


def _check(images: np.ndarray, masks: np.ndarray, truth: np.ndarray | None) -> None:
    fits = images.ndim == 4 and images.shape[-1] == 3 and len(images) > 0
    if not fits or masks.ndim != 4 or masks.shape[:3] != images.shape[:3] or not masks.shape[-1]:
        raise ValueError(
            f"images must be [B,H,W,3] and masks [B,H,W,N]: {images.shape}, {masks.shape}"
        )
    if truth is not None and truth.shape != images.shape[:3]:
        raise ValueError(f"truth must be [B,H,W]: {truth.shape} for images {images.shape}")


def _bytes(values: np.ndarray) -> np.ndarray:
    """Returns [0,1] as uint8 RGB; gray becomes three channels, what is not finite magenta."""
    finite = np.isfinite(values)
    levels = np.clip(np.where(finite, values, 0.0), 0.0, 1.0)
    colors = np.round(255 * levels).astype(np.uint8)
    if colors.ndim == 3:
        colors, finite = np.stack([colors] * 3, axis=-1), finite[..., None]
    colors[~finite.all(axis=-1)] = (255, 0, 255)
    return colors


def mask_panel(
    images: np.ndarray,
    masks: np.ndarray,
    truth: np.ndarray | None = None,
    path: Path | str | None = None,
) -> np.ndarray:
    """Draws images, their masks, masked copies, segmentation and ground truth.

    Columns: the image; each mask, white = hidden; the image with each mask's pixels black; which
    slot hides a pixel most, in the slots' colors, gray where none does; the ground truth where
    known. Small images are blown up to crisp pixels, large ones shrunk.

    Args:
      images: [B,H,W,3] in [0,1].
      masks: [B,H,W,N] in [0,1], 1 = hidden.
      truth: [B,H,W] integers, 0 = background, 1.. = objects.
      path: where to write a PNG as well.

    Returns uint8 RGB [height,width,3]; `ValueError` for shapes that do not fit each other.
    """
    images, masks = np.asarray(images, np.float64), np.asarray(masks, np.float64)
    truth = None if truth is None else np.asarray(truth)
    _check(images, masks, truth)
    slots = masks.shape[-1]
    masked = [images * (1 - masks[..., n, None]) for n in range(slots)]
    groups: list[list[tuple[str, np.ndarray, str | None]]] = [
        [("image", _bytes(images), None)],
        [(f"mask {n}", _bytes(masks[..., n]), palette.slot(n)) for n in range(slots)],
        [(f"without {n}", _bytes(copy), palette.slot(n)) for n, copy in enumerate(masked)],
        [("segments", color_labels(segmentation(masks), -1), None)],
    ]
    if truth is not None:
        groups[-1].append(("truth", color_labels(truth, 0), None))
    picture = _compose(groups)
    if path is not None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, optimize=True)
    return picture


def _fit(cell: np.ndarray, smooth: bool) -> np.ndarray:
    """Blows a picture up by a whole factor, or shrinks it."""
    height, width = cell.shape[:2]
    factor = max(1, round(CELL / max(height, width)))
    if max(height, width) <= LARGEST_CELL:
        return cell.repeat(factor, axis=0).repeat(factor, axis=1)
    shrink = LARGEST_CELL / max(height, width)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(cell).resize(size, method))


def _compose(groups: list[list[tuple[str, np.ndarray, str | None]]]) -> np.ndarray:
    """Lays the columns out, with a title and a chip of the slot's color above each."""
    font = ImageFont.load_default(13)
    count = len(groups[0][0][1])
    height, width = _fit(groups[0][0][1][0], True).shape[:2]
    titles = [title for group in groups for title, _, _ in group]
    pitch = max(width, int(max(font.getlength(title) for title in titles)) + 2)
    total = sum(map(len, groups))
    top = _MARGIN + _TITLE + _CHIP + _GAP
    breadth = 2 * _MARGIN + total * (pitch + _GAP) - _GAP
    breadth += (len(groups) - 1) * (_GROUP_GAP - _GAP)
    sheet = Image.new("RGB", (breadth, top + count * (height + _GAP) - _GAP + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    left = _MARGIN
    for group in groups:
        for title, cells, color in group:
            pen.text((left + pitch // 2, _MARGIN + _TITLE // 2), title, _INK, font, anchor="mm")
            if color is not None:
                chip = (left, _MARGIN + _TITLE, left + pitch - 1, _MARGIN + _TITLE + _CHIP - 2)
                pen.rectangle(chip, fill=color)
            for row, cell in enumerate(cells):
                # Averaging labels would invent colors.
                tile = Image.fromarray(_fit(cell, smooth=title not in ("segments", "truth")))
                sheet.paste(tile, (left + (pitch - width) // 2, top + row * (height + _GAP)))
            left += pitch + _GAP
        left += _GROUP_GAP - _GAP
    return np.asarray(sheet)
