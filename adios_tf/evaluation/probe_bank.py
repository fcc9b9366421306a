"""Linear classifiers: first weights, loss, and training by SGD or LARS at several rates at once."""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.evaluation.defaults import HEADS
from adios_tf.evaluation.metrics import agreement
from adios_tf.optimizers import build_optimizer
from adios_tf.registry import check_choice

Batches = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]
Head = str | tuple[np.ndarray, np.ndarray]


def first_head(head: Head, dim: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel [D,C] and bias [C] that training starts from.

    `head` is "zeros", so that the first logits favor no class; "uniform", PyTorch's default
    U(-1/sqrt(D), 1/sqrt(D)) of both, as in ADIOS; "normal", N(0, 0.01) with a bias of zero, as in
    MixMask; or a kernel and a bias, which are taken as they are. `UserError` for another name.
    """
    if not isinstance(head, str):
        return head
    check_choice("first head", head, HEADS)
    rng = np.random.default_rng([seed, dim, classes])
    if head == "zeros":
        return np.zeros((dim, classes)), np.zeros(classes)
    if head == "uniform":
        bound = dim**-0.5
        return rng.uniform(-bound, bound, (dim, classes)), rng.uniform(-bound, bound, classes)
    return rng.normal(0.0, 0.01, (dim, classes)), np.zeros(classes)


def classification_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean loss (scalar) of logits [B,C].

    Labels are [B] int, for cross-entropy; or several per image as [B,C] of 0 and 1, for binary
    cross-entropy, averaged over images and classes.
    """
    if labels.shape.rank == 1:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    else:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits)
    return tf.reduce_mean(losses)


class ProbeBank:
    """Linear classifiers with one learning rate each, trained at once on the same batches.

    Args:
      dim: feature width D.
      classes: C; labels are [B] int, or [B,C] of 0 and 1.
      learning_rates: L of them.
      optimizer: "sgd" or "lars" with momentum 0.9, see `adios_tf.optimizers`.
      weight_decay, eta, clip: of the optimizer.
      head: first weights, see `first_head`.
      seed: of the first weights; all classifiers start alike.

    Attributes:
      losses: the training loss of every update of the last epoch, [steps,L].
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        learning_rates: Sequence[float],
        optimizer: str = "sgd",
        weight_decay: float = 0.0,
        eta: float = 0.001,
        clip: bool = False,
        head: Head = "zeros",
        seed: int = 0,
    ):
        if not learning_rates or min(learning_rates) <= 0:
            raise UserError(f"learning rates {tuple(learning_rates)}: give numbers above 0")
        self.learning_rates = tuple(learning_rates)
        first = first_head(head, dim, classes, seed)
        self._heads = [
            tuple(keras.Variable(part, dtype=keras.config.floatx()) for part in first)
            for _ in learning_rates
        ]
        self._optimizers = [
            build_optimizer(optimizer, float(rate), weight_decay, eta=eta, clip=clip)
            for rate in learning_rates
        ]
        for one, weights in zip(self._optimizers, self._heads, strict=True):
            one.build(weights)
        self.losses = np.empty((0, len(learning_rates)))

    @tf.function(reduce_retracing=True)
    def _step(self, features: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        losses = []
        for optimizer, head in zip(self._optimizers, self._heads, strict=True):
            kernel, bias = (variable.value for variable in head)
            with tf.GradientTape() as tape:
                loss = classification_loss(labels, features @ kernel + bias)
            optimizer.apply(tape.gradient(loss, [kernel, bias]), head)
            losses.append(loss)
        return tf.stack(losses)

    def fit(
        self,
        batches: Batches,
        epochs: int = 100,
        decay_epochs: Sequence[int] = (60, 80),
        on_epoch: Callable[[int, "ProbeBank"], None] | None = None,
    ) -> "ProbeBank":
        """Trains on `batches(epoch)`, which yields (features [B,D], labels) of that epoch.

        From each of `decay_epochs` on the rate is a tenth. `on_epoch` is called after each epoch
        with its number, from 0, and this bank.
        """
        for epoch in tqdm(range(epochs), "linear probe", delay=2):
            factor = 0.1 ** sum(epoch >= at for at in decay_epochs)
            for optimizer, rate in zip(self._optimizers, self.learning_rates, strict=True):
                optimizer.learning_rate = rate * factor
            losses = [
                self._step(tf.cast(features, keras.config.floatx()), tf.convert_to_tensor(labels))
                for features, labels in batches(epoch)
            ]
            self.losses = np.array(losses)
            if on_epoch is not None:
                on_epoch(epoch, self)
        return self

    def weights(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel [D,C] and bias [C] of the classifier number `which`."""
        kernel, bias = self._heads[which]
        return kernel.numpy(), bias.numpy()

    def scores(self, features: np.ndarray, which: int) -> np.ndarray:
        """Returns logits [Q,C] of the classifier number `which`."""
        kernel, bias = self.weights(which)
        return features @ kernel + bias

    def accuracies(self, features: np.ndarray, labels: np.ndarray) -> dict[float, float]:
        """Returns {learning rate: `agreement`}; 0 for one that diverged."""
        found = {}
        for which, rate in enumerate(self.learning_rates):
            scores = self.scores(features, which)
            found[rate] = agreement(scores, labels) if np.isfinite(scores).all() else 0.0
        return found

    def best(self, features: np.ndarray, labels: np.ndarray) -> tuple[int, dict[float, float]]:
        """Returns the number of the best classifier on validation data, and all accuracies."""
        found = self.accuracies(features, labels)
        which = self.learning_rates.index(max(found, key=found.get))
        if not all(np.isfinite(part).all() for part in self.weights(which)):
            raise UserError("every learning rate of the probe diverged: give smaller ones")
        return which, found


def shuffled_batches(
    features: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, drop_last: bool = False
) -> Batches:
    """Returns `batches(epoch)` over cached features, in an order set by (seed, epoch)."""
    stop = len(features) - (len(features) % batch_size if drop_last else 0)

    def batches(epoch: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(features))
        for start in range(0, stop, batch_size):
            rows = order[start : start + batch_size]
            yield features[rows], labels[rows]

    return batches
