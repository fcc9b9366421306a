"""What is found out about the images of a folder before a run, and done about them during it."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from tqdm import tqdm

from adios_tf.data.folders import PARTS, read_pixels, shown, unreadable
from adios_tf.errors import UserError

FULL_CHECK = 20_000  # up to so many files every pixel is looked at before the run, else headers
ALIKE = 0.995  # correlation of gray pictures of 16 x 16: they differ by 10 % of their contrast
STAND_INS = 100
_ROWS = 1024

say = functools.cache(tqdm.write)  # a line once, however often the same images are opened


def look(path: str | os.PathLike) -> np.ndarray | str:
    """Decodes an image, once as long as its file stays as it is.

    Returns:
      Its gray [256] of mean 0 and length 1, [0] of an image of one color; or why it is unreadable.
    """
    state = None
    with contextlib.suppress(OSError):
        state = os.stat(path).st_size, os.stat(path).st_mtime_ns
    return _look(os.fspath(path), state)


@functools.lru_cache(2 * FULL_CHECK)
def _look(path: str, state: tuple[int, int] | None) -> np.ndarray | str:
    pixels = read_pixels(path)
    if isinstance(pixels, str):
        return pixels
    if (pixels == pixels[0, 0]).all():
        return np.zeros(0, np.float32)
    small = Image.fromarray(pixels).convert("L").resize((16, 16), Image.Resampling.BOX)
    gray = np.asarray(small, np.float32).reshape(-1)
    gray = gray - gray.mean()
    return gray / max(np.linalg.norm(gray), 1e-6)


def readable(files: Sequence[str | os.PathLike], skip_broken: bool) -> list[int]:
    """Returns the places of the files that can be read, before a broken one stops a run.

    Every image is decoded, on all cores; among more than 20,000 only the headers are read, and
    an image that is cut short will be named when its turn comes.

    Args:
      files: the images.
      skip_broken: leave unreadable ones out, and say how many, instead of refusing.

    Raises:
      UserError: an unreadable image, or no readable one.
    """
    check = look if len(files) <= FULL_CHECK else functools.partial(read_pixels, header_only=True)
    good, broken, plain = [], [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(check, files, chunksize=16)
        for n, found in enumerate(
            tqdm(results, desc="checking images", total=len(files), delay=2, unit="img")
        ):
            if isinstance(found, str):
                if not skip_broken:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise unreadable(files[n], found)
                broken.append(files[n])
                continue
            good.append(n)
            if found.shape == (0,):
                plain.append(files[n])
    if not good:
        raise UserError(
            f"none of the {len(files)} images can be read, the first is {shown(files[0])}"
        )
    if broken:
        say(f"left out {len(broken)} unreadable images, the first is {shown(broken[0])}")
    if plain:
        count = f"{len(plain)} of {len(files)} images"
        say(f"of one color only: {count}, the first is {shown(plain[0])}")
    return good


def check_classes(folder: str, split: str, labels: Sequence[int], classes: Sequence[str]) -> None:
    """Says so where the classes of a training part are of little use to kNN and the probe."""
    if not classes or split.split("[")[0] in PARTS[1:]:
        return
    counts = np.bincount(labels, minlength=len(classes))
    few = [classes[n] for n in np.flatnonzero(counts < 2)]
    if len(classes) == 1:
        say(f"{shown(folder)} has one class only, {classes[0]}: labels tell nothing apart")
    elif few:
        say(
            f"{shown(folder)}: {len(few)} of {len(classes)} classes have one image or none in "
            f"{split}, the first is {few[0]}: too few to tell them from others"
        )


def check_leak(train: Sequence[str], test: Sequence[str]) -> None:
    """Says so where test images are training images, too: the same, or in another size or quality.

    Parts of more than 20,000 images are not looked at.
    """
    if max(len(train), len(test)) > FULL_CHECK:
        return
    looks = [{file: look(file) for file in part} for part in (train, test)]
    one, other = ({f: x for f, x in part.items() if np.shape(x) == (256,)} for part in looks)
    names, known, found = list(one), np.array(list(one.values())).T, []
    for start in range(0, len(other) if one else 0, _ROWS):
        files = list(other)[start : start + _ROWS]
        alike = np.array([other[file] for file in files]) @ known
        best = zip(files, alike.argmax(axis=1), alike.max(axis=1), strict=True)
        found += [(file, names[n]) for file, n, value in best if value >= ALIKE]
    if found:
        say(
            f"{len(found)} of {len(test)} test images are (almost) the same as training images, "
            f"such as {shown(found[0][0])} and {shown(found[0][1])}: results look better than they "
            "are; remove them from one of the two"
        )


def reader(files: Sequence[str], skip_broken: bool) -> Callable[[int], tuple[np.ndarray, np.int64]]:
    """Returns what reads an image in a data pipeline: place -> pixels [h,w,3], and their place.

    With `skip_broken`, the next image stands in for one that turned unreadable since `readable`
    saw it, its label included: a function of the files alone. Without, that is a `UserError`.
    """
    broken: set[int] = set()

    def read(place: int) -> tuple[np.ndarray, np.int64]:
        for n in (np.arange(place, place + STAND_INS) % len(files)).tolist():
            pixels = read_pixels(files[n])
            if not isinstance(pixels, str):
                return pixels, np.int64(n)
            if not skip_broken:
                raise unreadable(files[n], pixels)
            if n not in broken:
                broken.add(n)
                if len(broken) & (len(broken) - 1) == 0:  # 1, 2, 4, ...: few lines for many
                    say(
                        f"unreadable by now: {len(broken)} of {len(files)} images, the last is "
                        f"{shown(files[n])} ({pixels}); others stand in for them"
                    )
        raise UserError(
            f"{STAND_INS} images in a row cannot be read any more, the first is "
            f"{shown(files[place])}: see whether the folder is still there"
        )

    return read
