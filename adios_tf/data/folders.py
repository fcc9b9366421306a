"""Image files of a folder: which there are, what they are called, and their pixels."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from adios_tf.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
PARTS = ("train", "test", "val", "validation")
MAX_PIXELS = 2**26  # of one image: 8192 x 8192; decoding it takes up to 0.8 GB

# Its content tells what a file is, not its name. Pillow hands some other formats to programs
# outside, such as EPS to Ghostscript.
Image.init()
_FORMATS = {"JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000"} & set(Image.OPEN)
# Pillow's doubts are either errors, and told as such, or of no use to anybody.
warnings.filterwarnings("ignore", module=r"PIL\.")


def shown(path: str | os.PathLike) -> str:
    """Returns a name as one line that can be printed, whatever bytes it is made of."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def find_images(root: Path) -> list[Path]:
    """Returns the image files below a folder, sorted.

    Links are followed, but not in a circle. Hidden names and `__MACOSX` are left out. Raises
    `UserError` for a folder that cannot be read.
    """

    def below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
        own = folder.resolve()
        try:
            entries = [] if own in above else list(os.scandir(folder))
        except OSError as error:
            raise UserError(f"cannot read folder {shown(folder)} ({error.strerror})") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            path = Path(entry.path)
            if path.is_dir() if entry.is_symlink() else entry.is_dir():
                yield from below(path, above | {own})
            # A link that leads nowhere is an image that cannot be read; a pipe is none.
            elif path.suffix.lower() in IMAGE_ENDINGS and (path.is_file() or not path.exists()):
                yield path

    return sorted(below(root, frozenset()))


def list_images(root: Path, split: str) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Finds the images of one split of a folder, sorted by path.

    A folder that has nothing but `train`, `test`, `val` or `validation` in it is divided by
    them; any other holds the same images whatever the split is called. Files in folders of
    their own are labeled by the (sorted) names of these, in all parts alike; one file beside
    them, and nothing is labeled.

    Args:
      root: the folder.
      split: its name, perhaps with a part in brackets (`train[:90%]`).

    Returns:
      The files, their labels (-1 = none), and the names of the classes, () if there are none.

    Raises:
      UserError: no images, no such split, folders beside these, or an unreadable part in brackets.
    """
    rows = [(path.relative_to(root).parts[:-1], path) for path in find_images(root)]
    if not rows:
        raise UserError(
            f"{shown(root)} holds no images (looked for {', '.join(IMAGE_ENDINGS)} below it): name "
            "a folder of image files, or of one folder per class"
        )
    folders = {place[0] for place, _ in rows if place}
    parts = sorted(folders & set(PARTS))
    named = split.split("[")[0]
    if parts and len(parts) == len(folders):
        if named not in parts:
            raise UserError(
                f"{shown(root)} is divided into {', '.join(parts)} and has no {named!r}: name one "
                "of these with --train_split or --test_split"
            )
        rows = [(place, path) for place, path in rows if place]
        flat = {place[0] for place, _ in rows if len(place) == 1}
        classes = {place[1] for place, _ in rows if place[0] not in flat}
        rows = [(place[1:], path) for place, path in rows if place[0] == named]
    elif len(parts) > 1:
        raise UserError(
            f"{shown(root)} holds {', '.join(parts)} and also {shown(min(folders - set(PARTS)))}: "
            "move that away, or all of them would be taken for classes"
        )
    else:
        classes = folders
    if not all(place for place, _ in rows):
        classes = set()
    number = {name: label for label, name in enumerate(sorted(classes))}
    labels = [number[place[0]] if number else -1 for place, _ in rows]
    files = [path for _, path in rows]
    return part_of(files, split), part_of(labels, split), tuple(map(shown, number))


def part_of(rows: list, split: str) -> list:
    """Applies the part in brackets of a split expression (`[:90%]`, `[100:]`) to a list."""
    if "[" not in split:
        return rows
    inside = split[split.index("[") + 1 :].removesuffix("]")

    def place(text: str, default: int) -> int:
        if not text:
            return default
        if text.endswith("%"):
            return round(len(rows) * float(text[:-1]) / 100)
        return int(text)

    try:
        begin, end = inside.split(":")
        return rows[place(begin, 0) : place(end, len(rows))]
    except ValueError as error:
        raise UserError(f"split {split!r}: write the part as [FROM:TO], e.g. [:90%]") from error


def read_pixels(path: str | os.PathLike, header_only: bool = False) -> np.ndarray | str:
    """Decodes one image file as uint8 [h,w,3]: the first frame, the right way up, without alpha.

    Gray of 16 bits is divided by 256, as TensorFlow and Pillow do with colors of 16 bits; floats
    must be in [0,1].

    Returns:
      The pixels (none of them if only the header is to be read), or why they cannot be had.
    """
    too_large = f"more than {MAX_PIXELS:,} pixels"
    try:
        with Image.open(path, formats=sorted(_FORMATS)) as image:
            if image.width * image.height > MAX_PIXELS:
                return too_large
            if header_only:
                return np.empty((0, 0, 3), np.uint8)
            ImageOps.exif_transpose(image, in_place=True)
            return _as_uint8(image)
    except Image.DecompressionBombError:
        return too_large
    except Exception as error:  # Pillow's decoders raise what they like
        text = getattr(error, "strerror", None) or str(error).replace(repr(os.fspath(path)), "")
        return shown(" ".join(text.split())) or type(error).__name__


def _as_uint8(image: Image.Image) -> np.ndarray:
    if image.mode == "I":
        raise ValueError("whole numbers of 32 bits, or signed; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        gray = np.asarray(image) >> 8
    elif image.mode == "F":
        gray = np.rint(np.asarray(image) * 255)
        if not (gray.min() >= 0 and gray.max() <= 255):
            raise ValueError("floats beyond 0 to 1; save it with 8 or 16 bits")
    else:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def unreadable(path: str | os.PathLike, why: str) -> UserError:
    """Returns the error for an image that cannot be read."""
    return UserError(
        f"cannot read image {shown(path)} ({why}): mend or remove it, or pass --skip_broken to "
        "leave such images out"
    )
