"""The context that protocols work at: one encoder, one data set, features made once."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from adios_tf import pretrained
from adios_tf.cli import program
from adios_tf.data.catalog import describe
from adios_tf.data.geometry import ImageSpec
from adios_tf.encoders.variants import at_side, with_cifar_stem
from adios_tf.errors import UserError
from adios_tf.evaluation.augmentation import Augmentation, steps_per_epoch
from adios_tf.evaluation.backgrounds import challenge_folders
from adios_tf.evaluation.config import EvaluateConfig, command
from adios_tf.evaluation.data import Split, open_pair, open_split
from adios_tf.evaluation.features import encode_batches, feature_function
from adios_tf.evaluation.linear import Batches, ProbeResult, Standardizer
from adios_tf.evaluation.mask_quality import segment
from adios_tf.evaluation.presets import image_settings
from adios_tf.evaluation.results import Row
from adios_tf.evaluation.validation import checked_labels, number_of_classes
from adios_tf.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class PartialResult:
    """A row before the context has added what all rows share; see `Row`.

    `metric`, `values`, `variant` and `settings` are as there. `groups` are flag groups that the row
    depends on beside the shared ones, `changed` the settings that single it out among the
    protocol's; `correct` is [n] bool, which test images are right, to compare runs by, if any.
    """

    metric: str
    values: tuple[float, ...]
    variant: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    groups: tuple[str, ...] = ()
    changed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    correct: np.ndarray | None = None


class EvaluationContext:
    """What the protocols share.

    Args:
      config: `dataset` must be set.
      model: the saved encoder.

    Attributes:
      train, test: the splits.
      spec: how images are prepared.
      stem: whether fine-tuning keeps the stem, or replaces it ("adios_cifar").
      corruption_curve: clean accuracy, and accuracy of every (corruption, severity), where
        that was measured.
    """

    def __init__(self, config: EvaluateConfig, model: pretrained.PretrainedModel):
        self.config, self.model = config, model
        settings = image_settings(config, model.info)
        self.stem = settings.pop("finetune_stem")
        self.spec = ImageSpec(
            int(settings["image_size"]),
            tuple(settings["mean"]),
            tuple(settings["std"]),
            settings["resize"],
            settings["crop_ratio"],
            config.interpolation,
        )
        for name in ("mean", "std"):
            if len(settings[name]) != 3:
                raise UserError(f"--{name} needs one number for each of the three channels")
        self.info = describe(config.dataset)
        self.train, self.test = open_pair(config, self.info, self.spec)
        self.corruption_curve: tuple[float, dict[tuple[str, int], float]] | None = None
        self.probe_augmentation = Augmentation(config.sgd_augmentation, config.sgd_min_scale)
        self.tuning_augmentation = Augmentation(
            config.finetune_augmentation, config.finetune_min_scale
        )
        self._function = feature_function(model, config.features, self.spec.size)
        self._features: dict[Split, np.ndarray] = {}

    def outputs(
        self, split: Split, function: Callable, title: str, count: int | None = None
    ) -> np.ndarray:
        """Returns function(normalized images) of the first or all images, [n,...] float32."""
        batches = (batch["image"] for batch in split.batches(count))
        total = split.count if count is None else count
        return encode_batches(function, batches, self.config.batch_size, total, title)

    def features(self, split: Split) -> np.ndarray:
        """Returns the features [n,D] of a split; computed once."""
        if split not in self._features:
            role = "train features" if split is self.train else "test features"
            self._features[split] = self.outputs(split, self._function, role)
        return self._features[split]

    def feature_pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns train features, train labels, test features, test labels.

        `UserError` where labels are missing, before anything is encoded.
        """
        self.require_labels()
        train, test = self.train, self.test
        return self.features(train), train.labels, self.features(test), test.labels

    def encode(self, images: np.ndarray, title: str) -> np.ndarray:
        """Returns the features [n,D] of uint8 images [n,S,S,3]."""
        size = self.config.batch_size

        def batches():
            for start in range(0, len(images), size):
                part = images[start : start + size].astype(np.float32) / 255
                yield tf.constant((part - self.spec.mean) / self.spec.std, tf.float32)

        return encode_batches(self._function, batches(), size, len(images), title)

    def augmented_features(self, rows: np.ndarray, prepare: Standardizer, seed: int) -> Batches:
        """Returns `batches(epoch)` of standardized features of augmented train images.

        Epochs come in their order, each once.
        """
        size, drop_last = self.config.sgd_batch_size, self.config.sgd_drop_last
        kind, epochs = self.probe_augmentation, self.config.sgd_epochs
        stream = iter(self.train.augmented(rows, size, epochs, seed, kind, drop_last))
        steps = steps_per_epoch(len(rows), size, drop_last)

        def batches(epoch: int):
            for images, labels in itertools.islice(stream, steps):
                yield prepare(self._function(images).numpy()), labels

        return batches

    def segmentation(self, count: int | None) -> np.ndarray:
        """Returns the slot [n,S,S] of the largest learned mask at every pixel; see `masks`."""
        return self.masks(count, segment).astype(np.int64)

    def masks(self, count: int | None, of: Callable | None = None) -> np.ndarray:
        """Returns the learned masks [n,S,S,N] of the first test images, or `of` them.

        `UserError` where the model has no masker, or one for images of another side.
        """
        masker = self.model.masker
        if masker is None:
            raise UserError(
                "this model has no masker: it was pretrained without learned masks, so there "
                "are none to score"
            )
        if masker.input_shape[1] != self.spec.size:
            raise UserError(
                f"the masker only takes images of its {masker.input_shape[1]} pixels: "
                f"give --image_size={masker.input_shape[1]}"
            )
        return self.outputs(self.test, of(masker) if of else masker, "masks", count)

    def require_labels(self, several: bool = True) -> None:
        """Raises `UserError` where a label is missing, train has one class only, or an image has
        several labels and may not (`several`).
        """
        checked_labels(self.train.labels, self.train.count, "train", 2, several)
        checked_labels(self.test.labels, self.test.count, "test", several=several)

    @property
    def classes(self) -> int:
        """How many classes the labels of both splits tell apart."""
        return number_of_classes(self.train.labels, self.test.labels)

    def fresh_encoder(self, seed: int) -> keras.Model:
        """Returns the encoder as it was saved, for a protocol to change; a new stem is seeded."""
        encoder = at_side(pretrained.load(self.config.run).encoder, self.spec.size)
        return with_cifar_stem(encoder, seed) if self.stem == "adios_cifar" else encoder

    def save_classifier(self, probe: ProbeResult) -> None:
        """Writes a probe of backbone features as classifier.keras beside the encoder.

        `UserError` for other features, or an export, which cannot be added to.
        """
        if self.train.labels.ndim == 2:
            raise UserError("--save_classifier keeps classifiers of one label per image: leave it")
        run = RunFolder(self.config.run)
        folder = run.model
        if self.config.features != "backbone" or not run.has_model:
            raise UserError(
                "--save_classifier keeps a probe of backbone features in a run folder: name a "
                f"run of {program('pretrain')} and leave --features=backbone"
            )
        head = keras.layers.Dense(len(probe.bias), dtype="float32")
        features = keras.Input((len(probe.kernel),))
        model = keras.Model(features, head(features), name="classifier")
        head.set_weights([probe.kernel, probe.bias])
        fresh = folder / "classifier.new.keras"
        model.save(fresh)
        fresh.rename(folder / "classifier.keras")

    def background_splits(self) -> tuple[Split, dict[str, Split]]:
        """Returns the split to train on and the test split of every background variant.

        `UserError` where neither the published folder nor variants of the data set are there.
        """
        config = self.config
        if config.backgrounds_dir:
            train, folders = challenge_folders(config.backgrounds_dir)
            wanted = {name: folders[name] for name in config.background_variants if name in folders}
            parts = {"train": train, **wanted}
            opened = {
                name: open_split(config, describe(f"folder:{folder}"), "all", 0, self.spec)
                for name, folder in parts.items()
            }
            return opened.pop("train"), opened
        test = config.test_split or self.info.test_split
        found = {"original": self.test} if "original" in config.background_variants else {}
        for name in config.background_variants if self.info.tfds_name else ():
            with contextlib.suppress(UserError):
                split = f"{test}_{name}", config.test_images
                found.setdefault(name, open_split(config, self.info, *split, self.spec))
        if found.keys() <= {"original"} and len(found) < len(config.background_variants):
            raise UserError(
                f"{config.dataset} has no background variants: use --dataset=shapes, or name the "
                "folder of the published challenge with --backgrounds_dir"
            )
        return self.train, found

    def row(self, protocol: str, partial: PartialResult) -> Row:
        """Returns the partial with what every row has: data, sizes, features, command."""
        shared = {"features": self.config.features, "image": str(self.spec)}
        shared |= {"train": self.train.count, "test": self.test.count}
        return Row(
            protocol,
            self.config.dataset,
            partial.metric,
            partial.variant,
            tuple(partial.values),
            {**shared, **partial.settings},
            command(self.config, partial.groups, protocols=(protocol,), **partial.changed),
            correct=partial.correct,
        )
