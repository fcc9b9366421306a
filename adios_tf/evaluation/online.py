"""What the encoder and the masker of a run are worth, before, during and after training."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from adios_tf.data import DatasetInfo, Examples
from adios_tf.data.geometry import ImageSpec
from adios_tf.errors import UserError
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.data import Split, open_pair
from adios_tf.evaluation.features import encode_batches, pixels_of
from adios_tf.evaluation.knn import knn_accuracy
from adios_tf.evaluation.mask_quality import mask_scores, random_segmentation, segment
from adios_tf.training.config import PretrainConfig
from adios_tf.training.pretrainer import Pretrainer


class OnlineEvaluator:
    """kNN accuracy and mask quality, before, during and after training.

    kNN: k = 20, temperature 0.07, cosine, backbone features, BatchNorm in inference mode; the
    first `--knn_train_images` labeled training images vote on the first `--knn_test_images`
    test images. Without labels, or with one class, there is no kNN; without ground truth no mask
    quality. The splits are those of `adios_tf.evaluation.data.open_pair`: a folder that is not
    divided into train and test is cut 80 / 20 (the encoder was pretrained on both parts, without
    their labels).
    """

    def __init__(
        self, config: PretrainConfig, info: DatasetInfo, train: Examples, model: Pretrainer
    ):
        self._model, self._image_size = model, config.image_size
        names = "dataset data_dir class_list train_split test_split skip_broken".split()
        counts = {"train_images": config.knn_train_images, "test_images": config.knn_test_images}
        same = {name: getattr(config, name) for name in names}
        self._settings = EvaluateConfig(**same, **counts)
        self._train = self._test = None
        self._labeled = False
        if not train.num_classes and not train.has_masks:
            return
        spec = ImageSpec(config.image_size, tuple(info.mean), tuple(info.std))
        try:
            self._train, self._test = open_pair(self._settings, info, spec)
        except UserError:
            if not info.folder or config.train_split or config.test_split:
                raise
            return  # a folder in which nothing can be held out to test on
        self._labeled = len(np.unique(self._train.labels)) > 1

    def _encode(self, function: Callable, split: Split, title: str, raw: bool = False):
        batches = (batch["image"] for batch in split.batches(normalized=not raw))
        return encode_batches(function, batches, self._settings.batch_size, split.count, title)

    def _score(self, function: Callable, title: str, raw: bool = False) -> float:
        """kNN accuracy (top-1) of function(images) of both splits; micro F1 of several labels."""
        train, test = (
            self._encode(function, split, title, raw) for split in (self._train, self._test)
        )
        k = min(20, len(train))
        data = train, self._train.labels, test, self._test.labels
        return next(iter(knn_accuracy(*data, k=(k,), temperature=0.07)[k].values()))

    def knn(self) -> dict[str, float]:
        """Returns {"knn": accuracy} of the encoder as it is now, {} without labels."""
        return {"knn": self._score(self._features, "features")} if self._labeled else {}

    @functools.cached_property
    def _features(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Normalized images -> features; traced once, it reads the weights as they are then."""
        encoder = self._model.inference_encoder
        return tf.function(lambda images: encoder(images, training=False))

    def before(self) -> dict[str, float]:
        """Returns the accuracy of raw pixels and of the untrained encoder."""
        if not self._labeled:
            return {}
        pixels = self._score(pixels_of, "pixels", raw=True)
        return {"knn_pixels": pixels, "knn_untrained": self.knn()["knn"]}

    def after(self) -> dict[str, float]:
        """Returns the accuracy of the trained encoder and the quality of its masks."""
        summary = {f"{name}_trained": value for name, value in self.knn().items()}
        masker = self._model.inference_masker(self._image_size)
        if masker is None or self._test is None or not self._test.has_masks:
            return summary
        learned = self._encode(segment(masker), self._test, "masks").astype(np.int64)
        guess = random_segmentation(learned.shape, masker.output_shape[-1], seed=0)
        truth = self._test.label_maps()
        for name, labels in (("mask_ari", learned), ("mask_ari_random", guess)):
            summary[name] = float(np.nanmean(mask_scores(truth, labels)["ari"]))
        return summary
