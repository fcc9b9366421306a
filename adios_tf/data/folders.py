"""Image files of a folder: which there are, what they are called, whether they can be read."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from adios_tf.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
PARTS = ("train", "test", "val", "validation")
FULL_CHECK = 20_000  # up to so many files every pixel is decoded before the run, else headers


def list_images(root: Path, split: str) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Finds the images of one split of a folder, sorted by path.

    A folder that has nothing but `train`, `test`, `val` or `validation` in it is divided by
    them; any other holds the same images whatever the split is called. Files in folders of
    their own are labeled by the (sorted) names of these; one file beside them, and nothing is
    labeled.

    Args:
      root: the folder.
      split: its name, perhaps with a part in brackets (`train[:90%]`).

    Returns:
      The files, their labels (-1 = none), and the names of the classes, () if there are none.

    Raises:
      UserError: no images, no such split, or a part in brackets that cannot be read.
    """
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
    if not files:
        raise UserError(
            f"{root} holds no images (looked for {', '.join(IMAGE_ENDINGS)} below it): name a "
            "folder of image files, or of one folder per class"
        )
    parts = {p.relative_to(root).parts[0] for p in files if p.parent != root}
    named = split.split("[")[0]
    divided = bool(parts) and parts <= set(PARTS)
    if divided and named not in parts:
        raise UserError(
            f"{root} is divided into {', '.join(sorted(parts))} and has no {named!r}: name one of "
            "these with --train_split or --test_split"
        )
    if divided:
        root = root / named
        files = [p for p in files if root in p.parents]
    flat = any(p.parent == root for p in files)
    folders = [p.relative_to(root).parts[0] for p in files]
    classes = () if flat else tuple(sorted(set(folders)))
    place = {name: label for label, name in enumerate(classes)}
    labels = [place.get(folder, -1) for folder in folders]
    return part_of(files, split), part_of(labels, split), classes


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


def read_pixels(name: str | bytes | os.PathLike) -> np.ndarray:
    """Decodes one image file as uint8 [h,w,3]: the first frame, the right way up.

    Raises:
      UserError: the file cannot be read; names it.
    """
    path = os.fsdecode(name)
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _broken(path, error) from error


def readable(files: Sequence[Path], skip_broken: bool) -> list[int]:
    """Returns the places of the files that can be read, before a broken one stops a run.

    Every image is decoded, on all cores; among more than 20,000 only the headers are read, and
    an image that is cut short will be named when its turn comes.

    Args:
      files: the images.
      skip_broken: leave unreadable ones out, and say how many, instead of refusing.

    Raises:
      UserError: an unreadable image, or no readable one.
    """
    check = _decodes if len(files) <= FULL_CHECK else _has_header
    good, broken = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(check, files, chunksize=16)
        for n, error in enumerate(
            tqdm(results, desc="checking images", total=len(files), delay=2, unit="img")
        ):
            if error is None:
                good.append(n)
                continue
            if not skip_broken:
                pool.shutdown(wait=False, cancel_futures=True)
                raise error
            broken.append(files[n])
    if not good:
        raise UserError(f"none of the {len(files)} images can be read, the first is {files[0]}")
    if broken:
        print(f"left out {len(broken)} unreadable images, the first is {broken[0]}")
    return good


def _decodes(path: Path) -> UserError | None:
    try:
        read_pixels(path)
    except UserError as error:
        return error
    return None


def _has_header(path: Path) -> UserError | None:
    try:
        with Image.open(path):
            return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return _broken(path, error)


def _broken(path: str | os.PathLike, error: Exception) -> UserError:
    reason = " ".join(str(error).replace(str(path), "").split()) or type(error).__name__
    return UserError(
        f"cannot read image {path} ({reason}): mend or remove it, or pass --skip_broken to leave "
        "such images out"
    )
