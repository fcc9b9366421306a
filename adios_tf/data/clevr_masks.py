"""CLEVR with ground-truth masks, from the TFRecords of DeepMind's multi_object_datasets.

One file, `clevr_with_masks_train.tfrecords`, compressed with GZIP. Every pixel and every code is a
string of one byte. Of up to 11 entities the first is the background; colors and shapes are
counted from 1 in the order of CLEVR's own list, 0 where there is no object (inferred: the files'
page does not say so).
"""

import functools
import os
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from adios_tf.data.folders import part_of
from adios_tf.data.sources import Examples
from adios_tf.errors import UserError

COLORS = "gray red blue green brown purple cyan yellow".split()
SHAPES = "cube sphere cylinder".split()
ENTITIES, HEIGHT, WIDTH = 11, 240, 320
FILE = "clevr_with_masks_train.tfrecords"
_FRAME = 16  # bytes of length and checksums around a record
_CODES = {name: tf.io.FixedLenFeature([ENTITIES], tf.string) for name in ("color", "shape")}


def load_clevr_masks(folder: str | None, split: str, limit: int = 0) -> Examples:
    """Opens CLEVR with masks: `image`, `label` [24] of 0 and 1 (color x shape), `mask`.

    Args:
      folder: where the file lies.
      split: `train`, the first 70 %, or `test`, the rest, as many as in ADIOS's random cut; or a
        part of the file such as `all[:500]`.
      limit: the first so many; 0 = all.

    Raises:
      UserError: no such file, an empty part, or a damaged file.
    """
    file = Path(folder or ".").expanduser() / FILE
    if not file.is_file():
        raise UserError(f"there is no {FILE} in {file.parent}: name its folder with --data_dir")
    records = _records(file)
    total = _count(file)
    part = {"train": "all[:70%]", "test": "all[70%:]"}.get(split, split)
    chosen = part_of(range(total), part)
    count = min(len(chosen), limit or len(chosen))
    if not count:
        raise UserError(f"split {split!r} of {FILE} is empty: take a larger part")
    dataset = records.skip(chosen[0]).take(count).enumerate().map(_example, tf.data.AUTOTUNE)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    names = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
    return Examples(dataset, count, len(names), names, has_masks=True)


def _records(file: Path) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(str(file), compression_type="GZIP")


@functools.cache  # every split asks, and the whole file has to be unpacked for it
def _count(file: Path) -> int:
    """The number of records, which the file does not tell.

    TensorFlow takes a file that was cut short for a whole one; its last four bytes tell the size
    of all that was compressed (RFC 1952).
    """
    lengths = _records(file).map(tf.strings.length, tf.data.AUTOTUNE)
    count = size = 0
    damaged = False
    try:
        for length in tqdm(lengths, desc="counting records", delay=2, unit="img"):
            count, size = count + 1, size + int(length) + _FRAME
    except tf.errors.OpError:
        damaged = True
    with file.open("rb") as content:
        content.seek(-4, os.SEEK_END)
        told = int.from_bytes(content.read(), "little")
    if damaged or told != size % 2**32:
        raise UserError(f"{file} is damaged after {count} records: fetch it again")
    return count


def _example(index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
    pixels = {
        "image": tf.io.FixedLenFeature([HEIGHT, WIDTH, 3], tf.string),
        "mask": tf.io.FixedLenFeature([ENTITIES, HEIGHT, WIDTH, 1], tf.string),
    }
    found = tf.io.parse_single_example(record, {**pixels, **_CODES})
    raw = {name: tf.io.decode_raw(value, tf.uint8)[..., 0] for name, value in found.items()}
    color, shape = (tf.cast(raw[name], tf.int64) - 1 for name in ("color", "shape"))
    place = tf.where((color >= 0) & (shape >= 0), color * len(SHAPES) + shape, -1)
    there = tf.reduce_any(place[:, None] == tf.range(24, dtype=tf.int64), axis=0)
    return {
        "image": raw["image"],
        "label": tf.cast(there, tf.int64),
        "index": index,
        "mask": tf.argmax(raw["mask"][..., 0], axis=0, output_type=tf.int32),
    }
