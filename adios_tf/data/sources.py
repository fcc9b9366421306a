"""Examples of a data set, in a fixed order: image, label, index, and masks where there are any."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from tqdm import tqdm

from adios_tf.data.catalog import DatasetInfo, unknown_dataset
from adios_tf.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
MASK_KEYS = ("instance_mask", "segmentation_mask", "mask")


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of one split.

    Attributes:
      dataset: dicts {"image": uint8 [h,w,3], "label": int64 (-1 = none), "index": int64 position
        in the split, "mask": int32 [h,w], 0 = background, where the data have masks}.
      count: how many.
      num_classes: labels run from 0 to below it; 0 = there are none.
      class_names: their names, () if unknown.
      has_masks: whether `mask` is there.
      files: the image files of a folder, () otherwise.
    """

    dataset: tf.data.Dataset
    count: int
    num_classes: int
    class_names: tuple[str, ...] = ()
    has_masks: bool = False
    files: tuple[str, ...] = ()


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
      split: a TFDS split expression; a folder has only its images, sliced like TFDS's
        (`train[:90%]`), whatever the split is called.
      data_dir: where prepared TFDS data sets lie; None = TFDS's own place.
      download: whether TFDS may download.
      limit: the first so many examples; 0 = all.
      class_list: file with a class name per line; others are left out, and labels follow its
        order.
      skip_broken: leave unreadable images of a folder out instead of refusing.

    Raises:
      UserError: unknown, not prepared, no such split, empty, or unreadable images.
    """
    if info.folder:
        return _folder(info, split, limit, skip_broken)
    return _tfds(info, split, data_dir, download, limit, class_list)


# ---------------------------------------------------------------------- folders


def _folder(info: DatasetInfo, split: str, limit: int, skip_broken: bool) -> Examples:
    root = Path(info.folder)
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
    if not files:
        raise UserError(
            f"{root} holds no images (looked for {', '.join(IMAGE_ENDINGS)} below it): name a "
            "folder of image files, or of one folder per class"
        )
    parts = {p.relative_to(root).parts[0] for p in files if p.parent != root}
    named = split.split("[")[0]
    if named in parts and parts <= {"train", "test", "val", "validation"}:
        root = root / named
        files = [p for p in files if root in p.parents]
    classes = sorted({p.relative_to(root).parts[0] for p in files if p.parent != root})
    flat = any(p.parent == root for p in files)
    labels = [-1 if flat else classes.index(p.relative_to(root).parts[0]) for p in files]
    files, labels = _slice(files, split), _slice(labels, split)
    if limit:
        files, labels = files[:limit], labels[:limit]
    files, labels = _readable(files, labels, skip_broken)
    names = tf.constant([str(p) for p in files])

    def read(index: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.numpy_function(_pixels, [names[index]], tf.uint8)
        image.set_shape([None, None, 3])
        label = tf.constant(labels, tf.int64)[index]
        return {"image": image, "label": label, "index": index}

    dataset = tf.data.Dataset.range(len(files)).map(read, tf.data.AUTOTUNE, deterministic=True)
    classes = () if flat else tuple(classes)
    found = tuple(str(p) for p in files)
    return Examples(dataset, len(files), len(classes), classes, False, found)


def _slice(rows: list, split: str) -> list:
    """Applies the part in brackets of a split expression (`[:90%]`, `[100:]`) to a list."""
    if "[" not in split:
        return rows
    inside = split[split.index("[") + 1 : split.rindex("]")]

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


def _pixels(name: bytes) -> np.ndarray:
    """Decodes one image file as uint8 [h,w,3], the first frame of an animation."""
    with Image.open(name.decode()) as image:
        return np.asarray(image.convert("RGB"))


def _readable(files: list[Path], labels: list[int], skip_broken: bool) -> tuple[list, list]:
    """Decodes every image once, because a broken one would stop the run hours later."""
    good, broken = [], []
    for n, path in enumerate(tqdm(files, desc="checking images", delay=2, unit="img")):
        try:
            _pixels(os.fsencode(path))
            good.append(n)
        except (OSError, SyntaxError, ValueError) as error:
            broken.append(path)
            if not skip_broken:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"cannot read image {path} ({reason}): mend or remove it, or pass "
                    "--skip_broken to leave such images out"
                ) from error
    if broken:
        print(f"left out {len(broken)} unreadable images, the first is {broken[0]}")
    if not good:
        raise UserError("none of the images can be read")
    return [files[n] for n in good], [labels[n] for n in good]


# ---------------------------------------------------------------------- TFDS


def _builder(info: DatasetInfo, data_dir: str | None, download: bool) -> Any:
    """Returns a prepared TFDS builder."""
    import tensorflow_datasets as tfds

    if info.tfds_name.split("/")[0] == "shapes":
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


def _keys(info: DatasetInfo, features: Any) -> tuple[str, str | None, str | None]:
    """Returns the names of the image, label and mask features."""
    import tensorflow_datasets as tfds

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
    import tensorflow_datasets as tfds

    builder = _builder(info, data_dir, download)
    image_key, label_key, mask_key = _keys(info, builder.info.features)
    read = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        count = builder.info.splits[split].num_examples
        raw = builder.as_dataset(split=split, read_config=read, shuffle_files=False)
    except (ValueError, KeyError) as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"data set {info.name!r} has no split {split!r}: known are {known}"
        ) from error
    names = tuple(builder.info.features[label_key].names) if label_key else ()

    def pick(index: tf.Tensor, example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = example[image_key]
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        label = example[label_key] if label_key else tf.constant(-1, tf.int64)
        picked = {"image": image, "label": tf.cast(label, tf.int64), "index": index}
        if mask_key:
            mask = tf.cast(example[mask_key], tf.int32)
            picked["mask"] = mask[..., 0] if mask.shape.rank == 3 else mask
        return picked

    if class_list:
        raw, count, names = _restrict(builder, split, raw, label_key, names, class_list)
    dataset = raw.enumerate().map(pick, tf.data.AUTOTUNE, deterministic=True)
    if limit and limit < count:
        dataset, count = dataset.take(limit), limit
    if count == 0:
        raise UserError(f"split {split!r} of {info.name!r} is empty")
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    return Examples(dataset, count, len(names), names, mask_key is not None)


def _restrict(
    builder: Any,
    split: str,
    raw: tf.data.Dataset,
    label_key: str | None,
    names: tuple[str, ...],
    class_list: str,
) -> tuple[tf.data.Dataset, int, tuple[str, ...]]:
    """Keeps the classes of a list, relabelled by their place in it, and counts what is left."""
    if not Path(class_list).is_file():
        raise UserError(f"--class_list={class_list} is not a file")
    if label_key is None:
        raise UserError("--class_list needs a data set with labels")
    wanted = tuple(line.strip() for line in Path(class_list).read_text().split() if line.strip())
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise UserError(f"--class_list={class_list}: unknown class {(unknown or ['(none)'])[0]!r}")
    place = np.full(len(names) + 1, -1, np.int64)
    place[[names.index(name) for name in wanted]] = np.arange(len(wanted))
    place = tf.constant(place)
    import tensorflow_datasets as tfds

    skip = {label_key: builder.info.features[label_key]}
    labels = builder.as_dataset(
        split=split, decoders=tfds.decode.PartialDecoding({label_key: skip[label_key]})
    )
    count = 0
    for example in tqdm(labels.batch(4096), desc="counting classes", delay=2):
        count += int(tf.reduce_sum(tf.cast(tf.gather(place, example[label_key]) >= 0, tf.int64)))

    def relabel(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {**example, label_key: place[example[label_key]]}

    kept = raw.filter(lambda example: place[example[label_key]] >= 0).map(relabel)
    return kept, count, wanted
