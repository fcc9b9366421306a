"""What the encoder and the masker of a run are worth, before, during and after training."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.data import DatasetInfo, Examples, evaluation_dataset, load_examples, normalize
from adios_tf.data.folders import PARTS, list_images
from adios_tf.evaluation.knn import knn_accuracy
from adios_tf.evaluation.mask_quality import mask_scores, random_segmentation
from adios_tf.evaluation.splits import split_validation
from adios_tf.reporting.panels import segmentation
from adios_tf.training.config import PretrainConfig
from adios_tf.training.pretrainer import Pretrainer

HELD_OUT = 0.2


class OnlineEvaluator:
    """kNN accuracy and mask quality, before, during and after training.

    kNN: k = 20, temperature 0.07, cosine, backbone features, BatchNorm in inference mode; the
    first `--knn_train_images` labeled training images vote on the first `--knn_test_images`
    test images. Without labels there is no kNN, without ground truth no mask quality.

    A folder that is not divided into train and test is cut 80 / 20, every class alike (the
    encoder was pretrained on both parts, without their labels). With one class there is no kNN.
    """

    def __init__(
        self, config: PretrainConfig, info: DatasetInfo, train: Examples, model: Pretrainer
    ):
        self._config, self._info, self._model = config, info, model
        self._train = self._test = self._encode = None
        if not train.num_classes and not train.has_masks:
            return
        labeled = config.train_split or info.label_train_split or info.train_split
        tested = self._test_split()
        if info.folder and self._shared(labeled, tested):
            self._hold_out(self._arrays(labeled, config.knn_train_images))
            return
        self._test = self._arrays(tested, config.knn_test_images)
        if train.num_classes:
            arrays = self._arrays(labeled, config.knn_train_images)
            self._train = arrays if len(np.unique(arrays["label"])) > 1 else None

    def _test_split(self) -> str:
        """The split to test on; of a folder, the one that is there."""
        config, info = self._config, self._info
        if config.test_split or not info.folder:
            return config.test_split or info.test_split
        there = [name for name in PARTS if (Path(info.folder) / name).is_dir()]
        held_out = [name for name in there if name != "train"]
        return next(iter(held_out + there), info.test_split)

    def _shared(self, one: str, other: str) -> bool:
        """Whether two splits of a folder have images in common."""
        root = Path(self._info.folder)
        return not set(list_images(root, one)[0]).isdisjoint(list_images(root, other)[0])

    def _hold_out(self, arrays: dict[str, np.ndarray]) -> None:
        """Cuts one folder in two, because an image that votes on itself is always right."""
        counts = np.unique(arrays["label"], return_counts=True)[1]
        if len(counts) < 2 or counts.max() < 2:
            return
        rows, held = split_validation(arrays["label"], HELD_OUT)
        self._train = {name: values[rows] for name, values in arrays.items()}
        self._test = {name: values[held] for name, values in arrays.items()}

    def _arrays(self, split: str, limit: int) -> dict[str, np.ndarray]:
        """Decodes one split into arrays of images [n,S,S,3] in [0,1], labels and masks."""
        config = self._config
        examples = load_examples(
            self._info,
            split,
            config.data_dir or None,
            limit=limit,
            class_list=config.class_list,
            skip_broken=config.skip_broken,
        )
        batches = evaluation_dataset(examples, 256, config.image_size)
        parts = [
            {k: v.numpy() for k, v in batch.items()}
            for batch in tqdm(batches, desc=f"reading {split}", delay=2, unit="batch")
        ]
        return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    def _features(self, images: np.ndarray) -> np.ndarray:
        if self._encode is None:
            encoder = self._model.inference_encoder
            mean, std = self._info.mean, self._info.std
            self._encode = tf.function(
                lambda x: tf.cast(encoder(normalize(x, mean, std), training=False), tf.float32),
                reduce_retracing=True,
            )
        size = 256
        starts = tqdm(range(0, len(images), size), desc="features", delay=2, unit="batch")
        return np.concatenate([self._encode(images[n : n + size]).numpy() for n in starts])

    def _score(self, train: np.ndarray, test: np.ndarray) -> float:
        neighbors = min(20, len(train))
        scores = knn_accuracy(
            train,
            self._train["label"],
            test,
            self._test["label"],
            k=(neighbors,),
            temperature=0.07,
        )
        return scores[neighbors]["top1"]

    def knn(self) -> dict[str, float]:
        """Returns {"knn": accuracy} of the encoder as it is now, {} without labels."""
        if self._train is None:
            return {}
        train, test = self._features(self._train["image"]), self._features(self._test["image"])
        return {"knn": self._score(train, test)}

    def before(self) -> dict[str, float]:
        """Returns the accuracy of raw pixels and of the untrained encoder."""
        if self._train is None:
            return {}
        pixels = [
            part["image"].reshape(len(part["image"]), -1) for part in (self._train, self._test)
        ]
        return {"knn_pixels": self._score(*pixels), "knn_untrained": self.knn()["knn"]}

    def after(self) -> dict[str, float]:
        """Returns the accuracy of the trained encoder and the quality of its masks."""
        summary = {f"{name}_trained": value for name, value in self.knn().items()}
        masker = self._model.inference_masker(self._config.image_size)
        if masker is None or self._test is None or "mask" not in self._test:
            return summary
        images = normalize(self._test["image"], self._info.mean, self._info.std)
        masks = masker.predict(images, batch_size=256, verbose=0)
        guess = random_segmentation(masks.shape[:3], masks.shape[-1], seed=0)
        for name, labels in (("mask_ari", segmentation(masks)), ("mask_ari_random", guess)):
            scores = mask_scores(self._test["mask"], labels)
            summary[name] = float(np.nanmean(scores["ari"]))
        return summary
