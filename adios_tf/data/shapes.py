"""The embedded dataset `shapes`, a TFDS builder that needs no network.

Nine classes of patterned objects before textured backgrounds (drawn by `scenes`), an instance
mask for every image, and the test scenes again with other backgrounds, as in the backgrounds
challenge (Xiao et al., arXiv 2006.09994). After `adios_tf.data` is imported,
`tfds.load("shapes")` or `tfds.load("shapes/side64")` works like any other data set.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from adios_tf.data.scenes import (
    CLASS_NAMES,
    TEXTURE_NAMES,
    Scenes,
    draw_scenes,
    join,
)
from adios_tf.errors import UserError

TRAIN_IMAGES = 8_000
TEST_IMAGES = 2_000
VARIANTS = ("test_mixed_same", "test_mixed_rand", "test_only_bg", "test_only_fg")
SIDES = (32, 64)
_CHUNK = 500  # scenes drawn at a time
_STREAMS = {"train": 0, "test": 1, "partners": 2}

_DESCRIPTION = """
Synthetic scenes: one to four overlapping objects of one class, told by outline and surface
pattern whatever their color, size, angle and place, before a textured background that is the
class's own kind half the time. `mask` is 0 on the background and 1..n on the objects;
`background` is the kind of texture that is seen, -1 for none. The splits `test_mixed_same` (the
background of another scene of the same class), `test_mixed_rand` (of any other scene),
`test_only_bg` and `test_only_fg` hold the scenes of `test` in the same order; `scene` counts
them. Drawn from fixed seeds, not downloaded.
"""


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Dataset `shapes`; `Shapes(config="side64")` for 64-pixel images."""

    VERSION = tfds.core.Version("1.0.1")
    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=f"side{side}", description=f"Images of {side} pixels a side.")
        for side in SIDES
    )

    @property
    def side(self) -> int:
        """The images' side in pixels."""
        return int(self.builder_config.name.removeprefix("side"))

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.side
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3)),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                    "mask": tfds.features.Image(shape=(side, side, 1)),
                    "background": tfds.features.ClassLabel(names=TEXTURE_NAMES),
                    "scene": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # test and its variants stay in step
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        splits = {"train": self._generate_examples(_parts("train", TRAIN_IMAGES, self.side))}
        scenes = join([*_parts("test", TEST_IMAGES, self.side)])
        for split in ("test", *VARIANTS):
            parts = map(exchanged, [scenes], [split])  # made when its turn comes
            splits[split] = self._generate_examples(parts)
        return splits

    def _generate_examples(self, parts: Iterator[Scenes]) -> Iterator[tuple[int, dict]]:
        scene = 0
        for part in parts:
            images = part.compose(part.background)
            rows = zip(images, part.label, part.mask, part.family, strict=True)
            for image, label, mask, family in rows:
                yield (
                    scene,
                    {
                        "image": _png(image),
                        "label": int(label),
                        "mask": _png(mask),
                        "background": int(family),
                        "scene": scene,
                    },
                )
                scene += 1


def exchanged(scenes: Scenes, split: str) -> Scenes:
    """Returns the test scenes with the backgrounds (or without the objects) of a split.

    Args:
      scenes: those of `test`.
      split: "test" or one of `VARIANTS`.
    """
    match split:
        case "test_mixed_same" | "test_mixed_rand":
            partner = partners(scenes.label, same_class=split == "test_mixed_same")
            change = {
                "background": scenes.background[partner],
                "family": scenes.family[partner],
            }
        case "test_only_bg":
            change = {
                "objects": np.zeros_like(scenes.objects),
                "visible": np.ones_like(scenes.visible),
                "mask": np.zeros_like(scenes.mask),
            }
        case "test_only_fg":
            change = {
                "background": np.zeros_like(scenes.background),
                "family": np.full_like(scenes.family, -1),
            }
        case _:
            change = {}
    return dataclasses.replace(scenes, **change)


def partners(label: np.ndarray, same_class: bool) -> np.ndarray:
    """Returns for each scene another scene, whose background it gets.

    Args:
      label: [n] classes; each occurs at least twice.
      same_class: whether the other scene is of the same class, else it is any other.
    """
    rng = np.random.RandomState([_STREAMS["partners"], int(same_class)])
    group = label if same_class else np.zeros_like(label)
    partner = np.empty(len(label), np.int64)
    for value in np.unique(group):
        # One cycle through a shuffled group: nobody is its own partner.
        members = rng.permutation(np.flatnonzero(group == value))
        partner[members] = np.roll(members, 1)
    return partner


def prepare_shapes(data_dir: str | None = None, config: str = "") -> tfds.core.DatasetBuilder:
    """Returns the builder of `shapes`, generated where it is not there yet.

    Generating takes some seconds and is safe when several processes begin at once: each writes
    a folder of its own, and the first one to finish puts it in place.

    Args:
      data_dir: folder for prepared data sets; where it cannot be written, and without one, the
        data set goes to `default_cache()`.
      config: "side32" or "side64"; "" = side32.

    Raises:
      UserError: an unknown config, or no folder that can be written.
    """
    known = [f"side{side}" for side in SIDES]
    if config and config not in known:
        raise UserError(f"unknown data set 'shapes/{config}': known are {', '.join(known)}")
    config = config or known[0]
    roots = [pathlib.Path(data_dir).expanduser()] if data_dir else []
    roots.append(default_cache())
    refused: OSError | None = None
    for root in roots:
        builder = Shapes(config=config, data_dir=root)
        try:
            return builder if builder.is_prepared() else _generated(config, root)
        except OSError as error:
            refused = error
    raise UserError(
        f"cannot write the data set shapes to {roots[-1]} ({refused.strerror or refused}): name "
        "a folder that can be written with --data_dir, or set XDG_CACHE_HOME"
    ) from refused


def _generated(config: str, root: pathlib.Path) -> tfds.core.DatasetBuilder:
    final = pathlib.Path(Shapes(config=config, data_dir=root).data_dir)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shapes-", dir=root) as private:
        drawn = Shapes(config=config, data_dir=private)
        _prepare(drawn)
        _put_in_place(pathlib.Path(drawn.data_dir), final)
    return Shapes(config=config, data_dir=root)


def default_cache() -> pathlib.Path:
    """Returns $XDG_CACHE_HOME/adios_tf, by default ~/.cache/adios_tf."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser() / "adios_tf"


def _prepare(builder: Shapes) -> None:
    # TFDS would otherwise ask a server for a prepared copy, and speak of a download.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config, file_format="tfrecord")


def _put_in_place(drawn: pathlib.Path, final: pathlib.Path) -> None:
    try:
        os.rename(drawn, final)
    except OSError:
        if not (final / "dataset_info.json").exists():  # nobody else was faster
            raise


def _parts(split: str, count: int, side: int) -> Iterator[Scenes]:
    for chunk in range(count // _CHUNK):
        yield draw_scenes(_STREAMS[split], chunk, _CHUNK, side)


def _png(pixels: np.ndarray) -> io.BytesIO:
    """Encodes uint8 [S,S,3] or [S,S]; several times faster than TFDS's own call of TensorFlow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    buffer.seek(0)
    return buffer
