"""A set of images in which a new image's nearest neighbors are looked up."""

import base64
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from adios_tf.data import describe, load_examples
from adios_tf.evaluation.knn import nearest

_THUMBNAIL = 96
_BATCH = 32


class ReferenceSet(NamedTuple):
    """Features [n,D], a small picture and a title of every image."""

    features: np.ndarray
    pictures: list[str]
    titles: list[str]

    def neighbors(self, features: np.ndarray, k: int = 8) -> list[dict[str, Any]]:
        """Returns the k images nearest by cosine to features [D], nearest first."""
        k = min(k, len(self.features))
        values, indices = nearest(self.features, features[None], k, progress=False)
        return [
            {"picture": self.pictures[i], "title": self.titles[i], "similarity": round(float(v), 4)}
            for v, i in zip(values[0], indices[0], strict=True)
        ]


def data_uri(pixels: np.ndarray | Image.Image) -> str:
    """Returns uint8 [H,W,3] or [H,W] as a PNG that a page can show."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_reference(
    name: str,
    embed: Callable[[np.ndarray], dict[str, np.ndarray]],
    split: str = "",
    data_dir: str = "",
    limit: int = 1000,
) -> ReferenceSet:
    """Embeds the first images of a data set or folder.

    Args:
      name: see `adios_tf.data.describe`.
      embed: image files [B] of bytes -> {"features": [B,D], "ok": [B]}.
      split: of the data set; "" = the catalog's test split, or all of a folder.
      data_dir: where prepared TFDS data sets lie.
      limit: the first so many images.

    Raises:
      UserError: no such data set or folder.
    """
    info = describe(name)
    split = split or ("all" if info.folder else info.test_split)
    examples = load_examples(info, split, data_dir or None, limit=limit, skip_broken=True)
    features, pictures, titles = [], [], []
    waiting: list[bytes] = []

    def flush() -> None:
        if waiting:
            features.append(embed(np.array(waiting, object))["features"])
            waiting.clear()

    total = min(limit, examples.count)
    for example in tqdm(examples.dataset.take(total), "reference set", total, delay=2, unit="img"):
        pixels = np.asarray(example["image"])
        if pixels.dtype != np.uint8:
            pixels = np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
        image, buffer = Image.fromarray(pixels), io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        waiting.append(buffer.getvalue())
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        pictures.append(data_uri(image))
        label = int(example.get("label", -1))
        named = 0 <= label < len(examples.class_names)
        titles.append(str(examples.class_names[label]) if named else f"image {len(titles)}")
        if len(waiting) == _BATCH:
            flush()
    flush()
    return ReferenceSet(np.concatenate(features), pictures, titles)
