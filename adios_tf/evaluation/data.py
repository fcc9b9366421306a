"""One split of a data set as the protocols read it: batches, labels, label maps."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from adios_tf.data.catalog import DatasetInfo
from adios_tf.data.checks import check_leak
from adios_tf.data.geometry import ImageSpec
from adios_tf.data.pipeline import evaluation_dataset
from adios_tf.data.sources import Examples, load_examples
from adios_tf.errors import UserError
from adios_tf.evaluation.augmentation import Augmentation, augmented_batches
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.splits import split_validation

MEMORY_BYTES = 2 * 2**30  # decoded images up to so much are kept
SHUFFLE_BUFFER = 10_000
FOLDER_TEST_SHARE = 0.2

# Label maps in which 0 is a class like any other, and the value that means "unlabeled".
_NO_BACKGROUND = {"camvid_240x180": 11}


class Split:
    """One split, in its fixed order.

    Args:
      examples: from `load_examples`.
      name: what the table calls the data set.
      spec: how images are prepared.
      batch_size: of `batches`.
    """

    def __init__(self, examples: Examples, name: str, spec: ImageSpec, batch_size: int):
        self.name, self.spec, self.batch_size = name, spec, batch_size
        self.count, self.has_masks = examples.count, examples.has_masks
        self.files = examples.files
        if _small(examples):
            kept = examples.dataset.cache()
            examples = dataclasses.replace(examples, dataset=kept)
        self._examples = examples

    def batches(
        self, count: int | None = None, normalized: bool = True
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields {"image": [B,S,S,3], "label": [B], "mask": [B,S,S]} of the first or all images.

        Images are normalized, or float in [0,1].
        """
        spec, examples = self.spec, self._examples
        if count is not None and count < self.count:
            examples = dataclasses.replace(
                examples, dataset=examples.dataset.take(count), count=count
            )
        norm = (spec.mean, spec.std) if normalized else (None, None)
        how = spec.resize, spec.crop_ratio, spec.interpolation
        yield from evaluation_dataset(examples, self.batch_size, spec.size, *norm, *how)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """[n] int64, -1 where there is none; [n,C] of 0 and 1 where an image has several."""
        labels = self._examples.dataset.map(lambda one: one["label"]).batch(1024)
        return np.concatenate(list(labels.as_numpy_iterator()))

    def pictures(self, count: int | None = None) -> np.ndarray:
        """Returns the first images as uint8 [n,S,S,3]."""
        found = [batch["image"].numpy() for batch in self.batches(count, normalized=False)]
        return np.rint(255 * np.concatenate(found)).astype(np.uint8)

    def label_maps(self, count: int | None = None) -> np.ndarray:
        """Returns the ground truth of the first images, [n,S,S] int: 0 background, -1 ignore.

        `UserError` where the data set has none.
        """
        if not self.has_masks:
            raise UserError(
                f"{self.name} has no ground-truth masks: name a data set that has, such as "
                "--dataset=nuclei_dsb2018"
            )
        maps = np.concatenate([batch["mask"].numpy() for batch in self.batches(count)])
        if self.name in _NO_BACKGROUND:
            return np.where(maps == _NO_BACKGROUND[self.name], -1, maps + 1)
        return maps

    def augmented(
        self,
        rows: np.ndarray,
        batch_size: int,
        epochs: int,
        seed: int,
        augmentation: Augmentation,
        drop_last: bool = False,
    ) -> tf.data.Dataset:
        """Returns augmented batches of the images `rows` [m]; see `augmented_batches`."""
        source, buffer = self._examples.dataset, SHUFFLE_BUFFER
        if len(rows) < self.count:
            chosen = self._chosen(rows)
            source = source.filter(lambda one: chosen[one["index"]])
        if _small(self._examples, len(rows)):
            buffer = len(rows)
            source = source.cache()
        how = epochs, seed, self.spec, augmentation, buffer, drop_last
        return augmented_batches(source, len(rows), batch_size, *how)

    def _chosen(self, rows: np.ndarray) -> tf.Tensor:
        chosen = np.zeros(self.count, bool)
        chosen[rows] = True
        return tf.constant(chosen)

    def part(self, rows: np.ndarray) -> "Split":
        """Returns the split of some of its images, in the same order."""
        chosen = self._chosen(rows)
        kept = self._examples.dataset.filter(lambda one: chosen[one["index"]]).enumerate()
        dataset = kept.map(lambda index, one: one | {"index": index})
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(rows)))
        examples = dataclasses.replace(self._examples, dataset=dataset, count=len(rows))
        return Split(examples, self.name, self.spec, self.batch_size)


def _small(examples: Examples, count: int | None = None) -> bool:
    """Whether so many decoded images may be kept in memory, judged by a sample."""
    sample = [one["image"].nbytes for one in examples.dataset.take(8).as_numpy_iterator()]
    return np.mean(sample) * (examples.count if count is None else count) <= MEMORY_BYTES


def open_split(
    config: EvaluateConfig, info: DatasetInfo, split: str, limit: int, spec: ImageSpec
) -> Split:
    """Opens one split with the settings of an evaluation; errors as `load_examples`."""
    examples = load_examples(
        info,
        split,
        data_dir=config.data_dir or None,
        download=config.download,
        limit=limit,
        class_list=config.class_list,
        skip_broken=config.skip_broken,
    )
    return Split(examples, info.name, spec, config.batch_size)


def open_pair(config: EvaluateConfig, info: DatasetInfo, spec: ImageSpec) -> tuple[Split, Split]:
    """Opens the train and the test split of a data set.

    A folder without `test` (or `val`) in it is cut 80 / 20, every class alike. `UserError` for a
    folder with `test` and without `train`, or the same images in both.
    """
    train_name = config.train_split or info.label_train_split or info.train_split
    test_name = config.test_split or info.test_split
    named = config.train_split or config.test_split
    if info.folder and not named:
        there = [n for n in ("train", "test", "val", "validation") if Path(info.folder, n).is_dir()]
        parts = [name for name in there if name != "train"]
        if not parts:
            return _cut(config, info, spec, "train" if there else "all")
        if "train" not in there:
            raise UserError(
                f"{info.folder} holds {parts[0]} and no train: add it, or name --train_split and "
                f"--test_split such as {parts[0]}[:80%] and {parts[0]}[80%:]"
            )
        test_name = parts[0]
    train = open_split(config, info, train_name, config.train_images, spec)
    test = open_split(config, info, test_name, config.test_images, spec)
    if info.folder and not set(train.files).isdisjoint(test.files):
        raise UserError(
            f"{info.name}: {train_name} and {test_name} share images; name --train_split and "
            "--test_split such as train[:80%] and train[80%:]"
        )
    check_leak(train.files, test.files)
    return train, test


def _cut(
    config: EvaluateConfig, info: DatasetInfo, spec: ImageSpec, name: str
) -> tuple[Split, Split]:
    whole = open_split(config, info, name, 0, spec)
    rows, held = split_validation(whole.labels, FOLDER_TEST_SHARE)
    rows, held = _spread(rows, config.train_images), _spread(held, config.test_images)
    check_leak(*([whole.files[n] for n in part] for part in (rows, held)))
    return whole.part(rows), whole.part(held)


def _spread(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` rows (0 = all), evenly spread: a folder's images stand class by class."""
    if not limit or limit >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
