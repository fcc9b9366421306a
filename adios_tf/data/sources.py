"""Examples of a data set, in a fixed order: image, label, index, and masks where there are any."""

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from adios_tf.data.catalog import CATALOG, DatasetInfo
from adios_tf.data.checks import check_classes, readable, reader
from adios_tf.data.folders import list_images, shown
from adios_tf.errors import UserError

MASK_KEYS = ("instance_mask", "segmentation_mask", "mask")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The same examples before decoding: small, so that many can be shuffled and skipped.

    Attributes:
      dataset: dicts with `index` and whatever `decode` needs.
      decode: makes an example of such a dict.
      decoded: `dataset` mapped by `decode`.
    """

    dataset: tf.data.Dataset
    decode: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]
    decoded: tf.data.Dataset


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of one split.

    Attributes:
      dataset: dicts {"image": uint8 [h,w,3], "label": int64 (-1 = none), "index": int64 position
        in the split, "mask": int32 [h,w], where the data have masks}. In instance masks and
        figure masks 0 is the background; a data set with a class for every pixel keeps its own
        numbers.
      count: how many.
      num_classes: labels run from 0 to below it; 0 = there are none.
      class_names: their names, () if unknown.
      has_masks: whether `mask` is there.
      files: the image files of a folder, () otherwise.
      encoded: the examples before decoding, None if only the decoded ones are known. Of no use
        once `dataset` has been replaced; read it through `before_decoding`.
    """

    dataset: tf.data.Dataset
    count: int
    num_classes: int
    class_names: tuple[str, ...] = ()
    has_masks: bool = False
    files: tuple[str, ...] = ()
    encoded: Encoded | None = None

    @property
    def before_decoding(self) -> Encoded | None:
        """The examples before decoding, if `dataset` is still what they decode to."""
        if self.encoded is not None and self.encoded.decoded is self.dataset:
            return self.encoded
        return None

    def take(self, count: int) -> "Examples":
        """Returns the first `count` examples."""
        if count >= self.count:
            return self
        some = dataclasses.replace(self, count=count, files=self.files[:count])
        if (encoded := self.before_decoding) is not None:
            return _with_encoded(some, encoded.dataset.take(count), encoded.decode)
        return dataclasses.replace(some, dataset=self.dataset.take(count), encoded=None)


def load_examples(
    info: DatasetInfo,
    split: str,
    data_dir: str | None = None,
    download: bool = False,
    limit: int = 0,
    class_list: str = "",
    skip_broken: bool = False,
) -> Examples:
    """Opens one split.

    Args:
      info: from `describe`.
      split: a TFDS split expression; for a folder see `folders.list_images`.
      data_dir: where prepared TFDS data sets lie; None = TFDS's own place.
      download: whether TFDS may download.
      limit: the first so many examples, of a folder so many spread over all; 0 = all.
      class_list: file with a class name per line; others are left out, and labels follow its
        order. "" = the classes that `info` names, if any.
      skip_broken: leave unreadable images of a folder out instead of refusing.

    Raises:
      UserError: unknown, not prepared, no such split, empty, or unreadable images.
    """
    if info.name == "clevr_masks":  # the one catalog entry that TFDS does not have
        from adios_tf.data.clevr_masks import load_clevr_masks

        return load_clevr_masks(data_dir, split, limit)
    if info.folder:
        if class_list:
            raise UserError("--class_list is for TFDS data sets: a folder has the classes it has")
        return _folder(info, split, limit, skip_broken)
    return _tfds(info, split, data_dir, download, limit, class_list)


def open_builder(
    info: DatasetInfo, data_dir: str | None = None, download: bool = False
) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a data set, its files in place; `shapes` is generated.

    Args:
      info, data_dir, download: as in `load_examples`.

    Raises:
      UserError: an unknown name, or one that would have to be downloaded.
    """
    if info.embedded:
        from adios_tf.data.shapes import prepare_shapes

        return prepare_shapes(data_dir, info.tfds_name.partition("/")[2])
    if data_dir and not Path(data_dir).expanduser().is_dir():
        raise UserError(f"--data_dir={data_dir} is not a folder")
    try:
        builder = tfds.builder(info.tfds_name, data_dir=data_dir or None)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, ImportError) as error:
        raise unknown_dataset(info.name) from error
    if not builder.info.splits:
        if not download:
            where = data_dir or "TFDS's own folder"
            raise UserError(
                f"data set {info.name!r} is not prepared in {where}: name the folder that holds "
                "it with --data_dir, or pass --download to let TFDS fetch it (needs network)"
            )
        try:
            builder.download_and_prepare()
        except Exception as error:  # TFDS raises whatever its downloader and parsers raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"data set {info.name!r} could not be downloaded ({reason}): prepare it elsewhere "
                "and name its folder with --data_dir"
            ) from error
    return builder


def unknown_dataset(name: str) -> UserError:
    """Returns the error for a name that neither the catalog nor TFDS knows."""
    known = {*CATALOG, *tfds.list_builders(with_community_datasets=False)}
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(
        f"unknown data set {name!r}: {hint}give one of {', '.join(CATALOG)}, another TFDS name, "
        "or a folder of images; a data set that only exists as files needs --data_dir"
    )


def _with_encoded(examples: Examples, dataset: tf.data.Dataset, decode: Callable) -> Examples:
    decoded = dataset.map(decode, tf.data.AUTOTUNE, deterministic=True)
    return dataclasses.replace(examples, dataset=decoded, encoded=Encoded(dataset, decode, decoded))


# ---------------------------------------------------------------------- folders


def _folder(info: DatasetInfo, split: str, limit: int, skip_broken: bool) -> Examples:
    files, labels, classes = list_images(Path(info.folder), split)
    if not files:
        raise UserError(f"split {split!r} of {shown(info.folder)} is empty: take a larger part")
    check_classes(info.folder, split, labels, classes)
    if limit and limit < len(files):
        rows = [n * len(files) // limit for n in range(limit)]  # files lie class by class
        files, labels = [files[n] for n in rows], [labels[n] for n in rows]
    good = readable(files, skip_broken)
    files = tuple(str(files[n]) for n in good)
    read, labels = reader(files, skip_broken), tf.constant([labels[n] for n in good], tf.int64)

    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        index = example["index"]
        image, place = tf.numpy_function(read, [index], (tf.uint8, tf.int64))
        image.set_shape([None, None, 3])
        return {"image": image, "label": labels[tf.ensure_shape(place, [])], "index": index}

    dataset = tf.data.Dataset.range(len(files)).map(lambda index: {"index": index})
    examples = Examples(dataset, len(files), len(classes), classes, False, files)
    return _with_encoded(examples, dataset, decode)


# ---------------------------------------------------------------------- TFDS


def _keys(info: DatasetInfo, features: Any) -> tuple[str, str | None, str | None]:
    """Returns the names of the image, label and mask features."""
    named = dict(features.items())
    images = [k for k, f in named.items() if isinstance(f, tfds.features.Image)]
    images = [k for k in images if (named[k].shape[-1] or 3) != 1 or k == "image"]
    image = info.image_key or ("image" if "image" in named else images[0] if images else "")
    if image not in named:
        raise UserError(f"data set {info.name!r} has no image feature")
    labels = [k for k, f in named.items() if isinstance(f, tfds.features.ClassLabel)]
    label = info.label_key or ("label" if "label" in labels else labels[0] if labels else None)
    mask = info.mask_key or next((k for k in MASK_KEYS if k in named), None)
    return image, label, mask


def _tfds(
    info: DatasetInfo,
    split: str,
    data_dir: str | None,
    download: bool,
    limit: int,
    class_list: str,
) -> Examples:
    builder = open_builder(info, data_dir, download)
    features = builder.info.features
    image_key, label_key, mask_key = _keys(info, features)
    objects, _, parts = info.object_labels.partition("/")
    if objects:
        label_key = objects
    kept = [key for key in (image_key, label_key, mask_key) if key]
    late = [key for key in (image_key, mask_key) if key]
    decoders = tfds.decode.PartialDecoding(
        {key: features[key] for key in kept},
        decoders={key: tfds.decode.SkipDecoding() for key in late},
    )
    try:
        count = builder.info.splits[split].num_examples
        raw = _stream(builder, split, decoders)
    except (ValueError, KeyError) as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"data set {info.name!r} has no split {split!r}: known are {known}"
        ) from error
    if objects:
        names, labels_of = _object_labels(features[objects].feature, parts.split(","))
        num_classes = len(names)
    else:
        names = tuple(features[label_key].names or ()) if label_key else ()
        num_classes = features[label_key].num_classes or 0 if label_key else 0

    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = features[image_key].decode_example(example[image_key])
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        label = example[label_key] if label_key else tf.constant(-1, tf.int64)
        if objects:
            label = labels_of(label)
        picked = {"image": image, "label": tf.cast(label, tf.int64), "index": example["index"]}
        if mask_key:
            mask = tf.cast(features[mask_key].decode_example(example[mask_key]), tf.int32)
            picked["mask"] = mask[..., 0] if mask.shape.rank == 3 else mask
        return picked

    wanted = _class_list(class_list) or info.keep_classes
    if wanted:
        raw, count = _restrict(builder, split, raw, label_key, names, wanted, info.name)
        names, num_classes = wanted, len(wanted)
    raw = raw.enumerate().map(lambda index, example: {**example, "index": index})
    if limit and limit < count:
        raw, count = raw.take(limit), limit
    if count == 0:
        raise UserError(f"split {split!r} of {info.name!r} is empty")
    raw = raw.apply(tf.data.experimental.assert_cardinality(count))
    examples = Examples(raw, count, num_classes, names, mask_key is not None)
    return _with_encoded(examples, raw, decode)


def _object_labels(
    features: Any, parts: Sequence[str]
) -> tuple[tuple[str, ...], Callable[[dict[str, tf.Tensor]], tf.Tensor]]:
    """Labels of an image with several objects: which combinations of their parts are there.

    CLEVR's 24 are 8 colors times 3 shapes (papers: ADIOS, a.8).

    Args:
      features: of one object.
      parts: names of its `ClassLabel` features.

    Returns:
      The names of the C combinations, and a function from the objects, {part: [k]}, to labels
      [C] of 0 and 1.
    """
    names = tuple(map(" ".join, itertools.product(*(features[part].names for part in parts))))

    def labels(objects: dict[str, tf.Tensor]) -> tf.Tensor:
        place = tf.zeros([], tf.int64)
        for part in parts:
            place = place * features[part].num_classes + tf.cast(objects[part], tf.int64)
        places = tf.reshape(place, [-1, 1])
        there = tf.reduce_any(places == tf.range(len(names), dtype=tf.int64), axis=0)
        return tf.cast(there, tf.int64)

    return names, labels


def _stream(
    builder: tfds.core.DatasetBuilder, split: str, decoders: tfds.decode.PartialDecoding
) -> tf.data.Dataset:
    """Reads a split from its first to its last record."""
    read = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return builder.as_dataset(split=split, decoders=decoders, read_config=read, shuffle_files=False)


def _class_list(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    if not Path(path).is_file():
        raise UserError(f"--class_list={path} is not a file")
    wanted = tuple(Path(path).read_text().split())
    if not wanted:
        raise UserError(f"--class_list={path} names no class: write one per line")
    return wanted


def _restrict(
    builder: tfds.core.DatasetBuilder,
    split: str,
    raw: tf.data.Dataset,
    label_key: str | None,
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    name: str,
) -> tuple[tf.data.Dataset, int]:
    """Keeps the wanted classes, relabeled by their place among them, and counts what is left."""
    if label_key is None:
        raise UserError(f"data set {name!r} has no labels to choose classes by: drop --class_list")
    known = set(names)
    if unknown := [w for w in wanted if w not in known]:
        raise UserError(f"data set {name!r} has no class {unknown[0]!r}: correct --class_list")
    place = np.full(len(names) + 1, -1, np.int64)  # the last place serves the label -1
    place[[names.index(w) for w in wanted]] = np.arange(len(wanted))
    place = tf.constant(place)

    def placed(label: tf.Tensor) -> tf.Tensor:
        label = tf.cast(label, tf.int64)
        return tf.gather(place, tf.where(label < 0, tf.constant(len(names), tf.int64), label))

    only_labels = tfds.decode.PartialDecoding({label_key: builder.info.features[label_key]})
    count = 0
    labels = _stream(builder, split, only_labels).batch(4096)
    for batch in tqdm(labels, desc="counting classes", delay=2, unit="batch"):
        count += int(np.sum(placed(batch[label_key]).numpy() >= 0))

    def relabel(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {**example, label_key: placed(example[label_key])}

    kept = raw.filter(lambda example: placed(example[label_key]) >= 0).map(relabel)
    return kept, count
