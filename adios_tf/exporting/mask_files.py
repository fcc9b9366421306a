"""Masks of a folder of images, as files: PNG, NPZ, overlay pictures and a contact sheet."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from adios_tf import pretrained
from adios_tf.data.folders import find_images, read_pixels, shown
from adios_tf.errors import UserError
from adios_tf.registry import unknown_name
from adios_tf.reporting import palette
from adios_tf.reporting.page import code, escape, page, paragraph, section
from adios_tf.reporting.panels import segmentation

KINDS = {"png": ".png", "npz": ".npz", "overlay": ".png"}
_STATE = "masks.json"
_THUMBNAIL = 320  # pixels of the longer side of an overlay picture, at most
_TINT = 0.55
_FINE = 2048  # larger pictures get the labels of one with sides of at most so many pixels, enlarged
_READERS = min(8, os.cpu_count() or 1)  # pictures in memory at a time


class MaskFiles(NamedTuple):
    """What a run over a folder did: images answered now, done before, and {broken: why}."""

    done: int
    kept: int
    broken: dict[str, str]
    index: Path


def write_masks(
    run: Path | str,
    images: Path | str,
    out: Path | str,
    kinds: Sequence[str] = tuple(KINDS),
    batch_size: int = 32,
    overwrite: bool = False,
) -> MaskFiles:
    """Writes the masks of every image below a folder; begun work is taken up where it stopped.

    For an image `a/b.jpg` there will be, each in a folder of its kind:

    - `png/a/b.jpg.png`: palette image of the picture's size; 0 where nothing is hidden, n where
      mask n-1 hides most;
    - `npz/a/b.jpg.npz`: `masks` float32 [S,S,N] in [0,1], 1 = hidden, and the picture's `size`
      (height, width);
    - `overlay/a/b.jpg.png`: the picture, tinted in the masks' colors.

    `index.html` shows all overlays. Images are turned as their EXIF says.

    Args:
      run: a run folder or an export, with a masker.
      images: the folder.
      out: where to write; results of another model there are refused.
      kinds: which of `KINDS`.
      batch_size: images at a time.
      overwrite: make everything anew.

    Raises:
      UserError: no masker, no images, an unknown kind, or results of another model.
    """
    root, out = Path(images).expanduser(), Path(out).expanduser()
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of mask file", kind, KINDS)
    names = folder_images(root, out)
    model = pretrained.load(run)
    if model.masker is None:
        raise UserError(f"--run={run} has no masker: it was pretrained without learned masks")
    _claim(out, model, overwrite)
    todo = [name for name in names if overwrite or not _is_done(out, name, kinds)]
    broken: dict[str, str] = {}
    with tqdm(desc="masks", total=len(names), initial=len(names) - len(todo), unit="img") as bar:
        for batch, failed in answers(model, model.masker, root, todo, batch_size):
            broken |= failed
            for answer in batch:
                _write(out, *answer, kinds)
            bar.update(len(batch) + len(failed))
    _write_index(out, root, [name for name in names if name not in broken], broken, model, kinds)
    return MaskFiles(len(todo) - len(broken), len(names) - len(todo), broken, out / "index.html")


def folder_images(root: Path, out: Path | None = None) -> list[str]:
    """Returns the names of the images below a folder, less those below `out`.

    Raises:
      UserError: no folder, or no images.
    """
    if not root.is_dir():
        raise UserError(f"--images={root} is not a folder")
    files = [p for p in find_images(root) if not out or out.resolve() not in p.resolve().parents]
    if not files:
        raise UserError(f"--images={shown(root)} holds no images: see docs/data.md for their kinds")
    return [path.relative_to(root).as_posix() for path in files]


def weights_digest(network: keras.Model, *more: str) -> str:
    """Returns a SHA-256 of the weights, and of what else is to be told apart."""
    digest = hashlib.sha256("\n".join(more).encode())
    for weight in network.weights:
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()


def _claim(out: Path, model: pretrained.PretrainedModel, overwrite: bool) -> None:
    """Marks the folder as this model's; another model's masks must not get mixed in."""
    mark = {"masker": weights_digest(model.masker), "image_size": model.image_size}
    state = out / _STATE
    if state.exists() and not overwrite and json.loads(state.read_text()) != mark:
        raise UserError(
            f"{out} holds masks of another model: take another --out, or --overwrite them"
        )
    if out.exists() and any(out.iterdir()) and not state.exists():
        raise UserError(f"{out} is not empty and holds no masks: name a new folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        state.write_text(json.dumps(mark) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): take another --out") from error


def _path(out: Path, kind: str, name: str) -> Path:
    return out / kind / f"{name}{KINDS[kind]}"


def _is_done(out: Path, name: str, kinds: Sequence[str]) -> bool:
    return all(_path(out, kind, name).exists() for kind in kinds)


def answers(
    model: pretrained.PretrainedModel,
    network: keras.Model,
    root: Path,
    names: Sequence[str],
    batch_size: int,
) -> Iterator[tuple[list[tuple], dict[str, str]]]:
    """Yields [(name, size, small copy [h,w,3], what the network gives)] and {broken name: why}."""
    side = model.image_size

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32)])
    def answer(images: tf.Tensor) -> tf.Tensor:
        return network(model.normalize(images), training=False)

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(names), batch_size):
            part, read, failed = names[start : start + batch_size], [], {}
            for n in range(0, len(part), _READERS):
                few = part[n : n + _READERS]
                pictures = pool.map(read_pixels, (root / name for name in few))
                for name, picture in zip(few, pictures, strict=True):
                    if isinstance(picture, str):
                        failed[name] = picture
                        continue
                    small = Image.fromarray(picture)
                    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
                    resized = model.resize(picture[None])
                    read.append((name, picture.shape[:2], np.asarray(small), resized))
            given = answer(tf.concat([x[-1] for x in read], axis=0)).numpy() if read else ()
            yield [(*x[:-1], one) for x, one in zip(read, given, strict=True)], failed


def _labels(masks: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The mask that hides most at every pixel of a picture of that size: uint8, 0 = none."""
    sides = [min(side, _FINE) for side in size]
    enlarged = tf.image.resize(masks[None], sides, "bilinear").numpy()
    labels = Image.fromarray((segmentation(enlarged)[0] + 1).astype(np.uint8))
    return labels.resize(size[::-1], Image.Resampling.NEAREST)


def _write(out: Path, name: str, size: tuple, small: np.ndarray, masks: np.ndarray, kinds) -> None:
    for kind in kinds:
        path = _path(out, kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".part")
        with fresh.open("wb") as file:
            if kind == "npz":
                np.savez_compressed(file, masks=masks, size=np.array(size))
            elif kind == "png":
                image = _labels(masks, size)
                image.putpalette(_palette())
                image.save(file, "PNG", optimize=True)
            else:
                _overlay(small, masks).save(file, "PNG")
        fresh.replace(path)


def _palette() -> list[int]:
    colors = [palette.rgb(palette.NOTHING), *(palette.rgb(palette.slot(n)) for n in range(255))]
    return [value for color in colors for value in color]


def _overlay(small: np.ndarray, masks: np.ndarray) -> Image.Image:
    labels = np.asarray(_labels(masks, small.shape[:2]))
    colors = np.array(_palette(), np.float32).reshape(-1, 3)[labels]
    tint = np.where(labels[..., None] > 0, _TINT, 0.0)
    return Image.fromarray(np.round(small * (1 - tint) + colors * tint).astype(np.uint8))


_SHEET = """<style>
.sheet { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)) }
.sheet img { width: 100%; image-rendering: pixelated; }
.sheet figcaption { overflow-wrap: anywhere; }
.slot { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; }
</style>"""


def _write_index(
    out: Path,
    root: Path,
    names: Sequence[str],
    broken: dict[str, str],
    model: pretrained.PretrainedModel,
    kinds: Sequence[str],
) -> None:
    slots = model.masker.output_shape[-1]
    legend = "".join(
        f'<span class="slot" style="background:{palette.slot(n)}"></span>mask {n}'
        for n in range(slots)
    )
    figures = []
    for name in names:
        links = " ".join(
            f'<a href="{quote(bytes(_path(Path(), kind, name)))}">{kind}</a>' for kind in kinds
        )
        image = ""
        if "overlay" in kinds:
            source = quote(bytes(_path(Path(), "overlay", name)))
            image = f'<img loading="lazy" src="{source}" alt="masks of {escape(shown(name))}">'
        caption = f"<figcaption>{escape(shown(name))} {links}</figcaption>"
        figures.append(f"<figure>{image}{caption}</figure>")
    parts = [
        _SHEET,
        f"<h1>Masks of {escape(shown(root.name))}</h1>",
        paragraph(f"{len(names)} images, {slots} masks each; color = the mask that hides most."),
        f"<p>{legend}</p>",
        f'<div class="sheet">{"".join(figures)}</div>',
    ]
    if broken:
        lines = "\n".join(f"{shown(name)}: {why}" for name, why in broken.items())
        parts.append(section(f"{len(broken)} images could not be read", code(lines)))
    (out / "index.html").write_text(page(f"Masks of {shown(root.name)}", *parts))
