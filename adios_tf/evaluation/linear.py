"""Linear probes: what a linear classifier reads from frozen features.

Three ways to the same classifier: logistic regression solved to convergence on cached
features, SGD on cached features, and SGD on augmented images through the frozen encoder as in
the papers. What is swept (regularization, learning rate) is chosen on a validation part cut
from train, never on test data.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.evaluation.defaults import LEARNING_RATES, STRENGTHS
from adios_tf.evaluation.metrics import rank_classes, top_accuracy
from adios_tf.evaluation.splits import split_validation
from adios_tf.evaluation.validation import checked_pair

# Up to so many numbers the solver works in float64: then it stops at the optimum, not at the
# noise of float32. Up to so many products one thread is faster than BLAS waiting for several
# (a hundred times so on a busy machine).
_DOUBLE_SIZE = 2**27
_ONE_THREAD_SIZE = 2**30

Batches = Callable[[int], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
      kernel, bias: [D,C] and [C] float64, the classifier on features as they are; the bias is
        -inf for a class that was never seen.
      scores: [Q,C] float32, one per class of every test example.
      chosen: the regularization or learning rate that was used.
      validation: {candidate: validation accuracy}; empty where nothing was swept.
      train_count: how many examples the reported classifier saw.
      note: what else the reader should know, such as a solver that did not converge.
    """

    kernel: np.ndarray
    bias: np.ndarray
    scores: np.ndarray = dataclasses.field(init=False)
    test_features: dataclasses.InitVar[np.ndarray]
    chosen: float
    validation: dict[float, float]
    train_count: int
    note: str = ""

    def __post_init__(self, test_features: np.ndarray):
        object.__setattr__(self, "scores", self.score(test_features))

    def score(self, features: np.ndarray) -> np.ndarray:
        """Returns the scores [n,C] float32 of features [n,D]."""
        return (features @ self.kernel + self.bias).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Standardizer:
    """Shift and scale of features by train statistics; constant features stay unscaled."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Standardizer":
        mean = features.mean(axis=0, dtype=np.float64)
        scale = features.std(axis=0, dtype=np.float64)
        scale = np.where(scale > 1e-6 * scale.max(), scale, 1.0)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale

    def folded(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the classifier on raw features that equals this one on standardized ones."""
        kernel = kernel / self.scale.astype(np.float64)[:, None]
        return kernel, bias - self.mean.astype(np.float64) @ kernel


def _weights(model: LogisticRegression, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel [D,C] and bias [C] also for classes that the model never saw."""
    kernel, bias = model.coef_.T, model.intercept_
    if kernel.shape[1] == 1:  # two classes: one score, that of the second
        kernel = np.concatenate([np.zeros_like(kernel), kernel], axis=1)
        bias = np.concatenate([np.zeros_like(bias), bias])
    all_kernel, all_bias = np.zeros((len(kernel), classes)), np.full(classes, -np.inf)
    all_kernel[:, model.classes_], all_bias[model.classes_] = kernel, bias
    return all_kernel, all_bias


def logistic_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
    validation_fraction: float = 0.1,
    seed: int = 0,
    max_iterations: int = 500,
    progress: bool = True,
) -> ProbeResult:
    """Multinomial logistic regression (L-BFGS) on standardized features.

    Minimizes mean cross-entropy + strength / 2 * |W|^2. The strength with the best validation
    accuracy (the stronger one on a tie) is refitted on all of train.

    Args:
      train_features, test_features: [n,D], [Q,D] float.
      train_labels, test_labels: [n], [Q] int; test labels only say how many classes there are.
      strengths: candidates; a single one is used as it is.
      validation_fraction: share of train held out for the choice.
      seed: of that cut.
      max_iterations: of L-BFGS for each fit.
      progress: shows a bar when it takes longer than two seconds.

    Raises:
      UserError: missing labels, one class only, NaN features, no strength above 0.
    """
    train_features, train_labels, test_features, _, classes = checked_pair(
        train_features, train_labels, test_features, test_labels
    )
    if not strengths or min(strengths) <= 0:
        raise UserError(f"regularization strengths {tuple(strengths)}: give numbers above 0")
    stalled = []

    def fit(rows: np.ndarray, candidates: Sequence[float], bar: tqdm):
        """Yields (strength, standardizer, model), each model started from the one before."""
        prepare = Standardizer.of(train_features[rows])
        inputs, targets = prepare(train_features[rows]), train_labels[rows]
        if inputs.size <= _DOUBLE_SIZE:
            inputs = inputs.astype(np.float64)
        model = LogisticRegression(warm_start=True, max_iter=max_iterations)
        for strength in candidates:
            model.set_params(C=1.0 / (strength * len(rows)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(inputs, targets)
            if model.n_iter_.max() >= max_iterations:
                stalled.append(strength)
            bar.update()
            yield strength, prepare, model

    validation = {}
    strengths = sorted(strengths, reverse=True)
    fits = len(strengths) + 1 if len(strengths) > 1 else 1
    threads = 1 if train_features.size * classes <= _ONE_THREAD_SIZE else None
    bar = tqdm(desc="logistic probe", total=fits, delay=2, disable=not progress)
    with bar, threadpool_limits(threads):
        if len(strengths) > 1:
            rows, held = split_validation(train_labels, validation_fraction, seed)
            for strength, prepare, model in fit(rows, strengths, bar):
                kernel, bias = _weights(model, classes)
                scores = prepare(train_features[held]) @ kernel + bias
                validation[strength] = top_accuracy(rank_classes(scores, 1), train_labels[held])
        chosen = max(validation, key=validation.get) if validation else strengths[0]
        everything = np.arange(len(train_features))
        [(_, prepare, model)] = fit(everything, [chosen], bar)
    return ProbeResult(
        *prepare.folded(*_weights(model, classes)),
        test_features,
        chosen=float(chosen),
        validation=validation,
        train_count=len(train_features),
        note=f"L-BFGS stopped at {max_iterations} iterations" if chosen in stalled else "",
    )


class ProbeBank:
    """Linear classifiers with one learning rate each, trained at once on the same batches.

    Args:
      dim: feature width D.
      classes: C.
      learning_rates: L of them.
      momentum: of SGD (no Nesterov, no weight decay; as in the papers' linear evaluation).
    """

    def __init__(
        self, dim: int, classes: int, learning_rates: Sequence[float], momentum: float = 0.9
    ):
        if not learning_rates or min(learning_rates) <= 0:
            raise UserError(f"learning rates {tuple(learning_rates)}: give numbers above 0")
        self.learning_rates = tuple(learning_rates)
        self._momentum = momentum
        shape = (len(self.learning_rates), dim, classes)
        self._kernel, self._bias = tf.Variable(tf.zeros(shape)), tf.Variable(tf.zeros(shape[::2]))
        self._speeds = [tf.Variable(tf.zeros_like(v)) for v in (self._kernel, self._bias)]

    @tf.function(reduce_retracing=True)
    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        return tf.einsum("bd,ldc->lbc", features, self._kernel) + self._bias[:, None]

    @tf.function(reduce_retracing=True)
    def _step(self, features: tf.Tensor, labels: tf.Tensor, factor: tf.Tensor) -> None:
        wanted = tf.one_hot(labels, self._bias.shape[1])
        error = tf.nn.softmax(self._logits(features)) - wanted
        error /= tf.cast(tf.shape(features)[0], tf.float32)
        gradients = (tf.einsum("bd,lbc->ldc", features, error), tf.reduce_sum(error, axis=1))
        rates = factor * tf.constant(self.learning_rates, tf.float32)
        for weight, speed, gradient in zip(
            (self._kernel, self._bias), self._speeds, gradients, strict=True
        ):
            speed.assign(self._momentum * speed + gradient)
            weight.assign_sub(tf.reshape(rates, [-1] + [1] * (weight.shape.rank - 1)) * speed)

    def fit(
        self,
        batches: Batches,
        epochs: int = 100,
        decay_epochs: Sequence[int] = (60, 80),
        decay: float = 0.1,
        progress: bool = True,
    ) -> "ProbeBank":
        """Trains; `batches(epoch)` yields (features [B,D], labels [B]) of that epoch."""
        for epoch in tqdm(range(epochs), "linear probe", delay=2, disable=not progress):
            factor = tf.constant(decay ** sum(epoch >= at for at in decay_epochs), tf.float32)
            for features, labels in batches(epoch):
                self._step(tf.convert_to_tensor(features), tf.convert_to_tensor(labels), factor)
        return self

    def weights(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel [D,C] and bias [C] of the classifier number `which`."""
        return self._kernel[which].numpy(), self._bias[which].numpy()

    def scores(self, features: np.ndarray, which: int) -> np.ndarray:
        """Returns logits [Q,C] of the classifier number `which`."""
        kernel, bias = self.weights(which)
        return features @ kernel + bias

    def accuracies(self, features: np.ndarray, labels: np.ndarray) -> dict[float, float]:
        """Returns {learning rate: top-1 accuracy}; 0 for one that diverged."""
        found = {}
        for which, rate in enumerate(self.learning_rates):
            scores = self.scores(features, which)
            right = top_accuracy(rank_classes(scores, 1), labels)
            found[rate] = right if np.isfinite(scores).all() else 0.0
        return found

    def best(self, features: np.ndarray, labels: np.ndarray) -> tuple[int, dict[float, float]]:
        """Returns the number of the best classifier on validation data, and all accuracies."""
        found = self.accuracies(features, labels)
        chosen = max(found, key=found.get)
        if not found[chosen]:
            raise UserError("every learning rate of the probe diverged: give smaller ones")
        return self.learning_rates.index(chosen), found


def shuffled_batches(
    features: np.ndarray, labels: np.ndarray, batch_size: int, seed: int
) -> Batches:
    """Returns `batches(epoch)` over cached features, in an order set by (seed, epoch)."""

    def batches(epoch: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng([seed, epoch]).permutation(len(features))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield features[rows], labels[rows]

    return batches


def sgd_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 100,
    decay_epochs: Sequence[int] = (60, 80),
    batch_size: int = 256,
    validation_fraction: float = 0.1,
    seed: int = 0,
    batches: Callable[[np.ndarray, Standardizer], Batches] | None = None,
    progress: bool = True,
) -> ProbeResult:
    """A linear classifier trained by SGD with momentum, several learning rates at once.

    The classifier with the best validation accuracy is reported as it is, without a refit.

    Args:
      train_features, test_features: [n,D], [Q,D] float, of images without augmentation.
      train_labels, test_labels: [n], [Q] int; test labels only say how many classes there are.
      learning_rates: candidates; with a single one all of train is trained on.
      epochs, decay_epochs: passes over train, and after which the rate falls to a tenth.
      batch_size: B.
      validation_fraction, seed: of the cut from train; the seed also orders the batches.
      batches: makes the training batches from (train rows [m], standardizer): how the
        augmented variant brings its own features. Default: the cached features.
      progress: shows a bar when it takes longer than two seconds.

    Raises:
      UserError: missing labels, one class only, NaN features, rates that all diverge.
    """
    train_features, train_labels, test_features, _, classes = checked_pair(
        train_features, train_labels, test_features, test_labels
    )
    if len(learning_rates) > 1:
        rows, held = split_validation(train_labels, validation_fraction, seed)
    else:
        rows, held = np.arange(len(train_features)), np.arange(0)
    prepare = Standardizer.of(train_features[rows])
    if batches is None:
        source = shuffled_batches(
            prepare(train_features[rows]), train_labels[rows], batch_size, seed
        )
    else:
        source = batches(rows, prepare)
    bank = ProbeBank(train_features.shape[1], classes, learning_rates)
    bank.fit(source, epochs, decay_epochs, progress=progress)
    which, validation = 0, {}
    if len(held):
        which, validation = bank.best(prepare(train_features[held]), train_labels[held])
    return ProbeResult(
        *prepare.folded(*bank.weights(which)),
        test_features,
        chosen=bank.learning_rates[which],
        validation=validation,
        train_count=len(rows),
    )
