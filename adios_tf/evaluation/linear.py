"""Linear probes: what a linear classifier reads from frozen features.

Three ways to the same classifier: logistic regression solved to convergence on cached
features, SGD on cached features, and SGD on augmented images through the frozen encoder as in
the papers. What is swept (regularization, learning rate) is chosen on a validation part cut
from train, never on test data.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from adios_tf.errors import UserError
from adios_tf.evaluation.defaults import LEARNING_RATES, REPORTS, STRENGTHS
from adios_tf.evaluation.metrics import agreement
from adios_tf.evaluation.probe_bank import Batches, ProbeBank, shuffled_batches
from adios_tf.evaluation.splits import split_validation
from adios_tf.evaluation.validation import checked_pair
from adios_tf.registry import check_choice

# Up to so many numbers the solver works in float64: then it stops at the optimum, not at the
# noise of float32. Up to so many products one thread is faster than BLAS waiting for several
# (a hundred times so on a busy machine).
_DOUBLE_SIZE = 2**27
_ONE_THREAD_SIZE = 2**30


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
      kernel, bias: [D,C] and [C] float64, the classifier on features as they are; the bias is
        -inf for a class that was never seen (inf for one that every image has).
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


def _fit_each(
    models: list[LogisticRegression], inputs: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits one model per class of targets [n,C]; returns kernel [D,C] and bias [C].

    A class that every image has, or none, gets that answer without being learned.
    """
    kernel, bias = np.zeros((inputs.shape[1], len(models))), np.full(len(models), -np.inf)
    for index, (model, target) in enumerate(zip(models, targets.T, strict=True)):
        if target.min() == target.max():
            bias[index] = np.inf if target[0] else -np.inf
            continue
        model.fit(inputs, target)
        kernel[:, index], bias[index] = model.coef_[0], model.intercept_[0]
    return kernel, bias


def logistic_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
    validation_fraction: float = 0.1,
    seed: int = 0,
    max_iterations: int = 500,
) -> ProbeResult:
    """Multinomial logistic regression (L-BFGS) on standardized features.

    Minimizes mean cross-entropy + strength / 2 * |W|^2. The strength with the best validation
    accuracy (the stronger one on a tie) is refitted on all of train. Where images have several
    labels, every class has a binary regression of its own, and micro F1 decides.

    Args:
      train_features, test_features: [n,D], [Q,D] float.
      train_labels, test_labels: [n], [Q] int, or [n,C], [Q,C] of 0 and 1; test labels only say
        how many classes there are.
      strengths: candidates; a single one is used as it is.
      validation_fraction: share of train held out for the choice.
      seed: of that cut.
      max_iterations: of L-BFGS for each fit.

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
        """Yields (strength, standardizer, kernel, bias), each started from the one before."""
        prepare = Standardizer.of(train_features[rows])
        inputs, targets = prepare(train_features[rows]), train_labels[rows]
        if inputs.size <= _DOUBLE_SIZE:
            inputs = inputs.astype(np.float64)
        several = targets.ndim == 2
        new = functools.partial(LogisticRegression, warm_start=True, max_iter=max_iterations)
        models = [new() for _ in range(classes if several else 1)]
        for strength in candidates:
            for model in models:
                model.set_params(C=1.0 / (strength * len(rows)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                if several:
                    weights = _fit_each(models, inputs, targets)
                else:
                    weights = _weights(models[0].fit(inputs, targets), classes)
            if max(np.max(getattr(model, "n_iter_", 0)) for model in models) >= max_iterations:
                stalled.append(strength)
            bar.update()
            yield strength, prepare, *weights

    validation = {}
    strengths = sorted(strengths, reverse=True)
    fits = len(strengths) + 1 if len(strengths) > 1 else 1
    threads = 1 if train_features.size * classes <= _ONE_THREAD_SIZE else None
    with tqdm(desc="logistic probe", total=fits, delay=2) as bar, threadpool_limits(threads):
        if len(strengths) > 1:
            rows, held = split_validation(train_labels, validation_fraction, seed)
            for strength, prepare, kernel, bias in fit(rows, strengths, bar):
                scores = prepare(train_features[held]) @ kernel + bias
                validation[strength] = agreement(scores, train_labels[held])
        chosen = max(validation, key=validation.get) if validation else strengths[0]
        everything = np.arange(len(train_features))
        [(_, prepare, *weights)] = fit(everything, [chosen], bar)
    return ProbeResult(
        *prepare.folded(*weights),
        test_features,
        chosen=float(chosen),
        validation=validation,
        train_count=len(train_features),
        note=f"L-BFGS stopped at {max_iterations} iterations" if chosen in stalled else "",
    )


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
    *,
    standardize: bool = True,
    drop_last: bool = False,
    report: str = "last",
    on_epoch: Callable[[int, ProbeBank], None] | None = None,
    **bank_options: Any,
) -> ProbeResult:
    """A linear classifier trained by SGD with momentum, several learning rates at once.

    The classifier with the best validation accuracy is reported as it is, without a refit.

    Args:
      train_features, test_features: [n,D], [Q,D] float, of images without augmentation.
      train_labels, test_labels: [n], [Q] int, or [n,C], [Q,C] of 0 and 1 for binary
        cross-entropy; test labels only say how many classes there are, unless `report` is "best".
      learning_rates: candidates; with a single one all of train is trained on.
      epochs, decay_epochs: passes over train, and after which the rate falls to a tenth.
      batch_size: B.
      validation_fraction, seed: of the cut from train; the seed also orders the batches.
      batches: makes the training batches from (train rows [m], standardizer): how the
        augmented variant brings its own features. Default: the cached features.
      standardize: shift and scale features by train statistics; False takes them as they are,
        as the official implementations do.
      drop_last: leave an incomplete last batch of an epoch out, as ADIOS does.
      report: the classifier of the "last" epoch, or the "best" on test data, as MixMask's
        program does; the best is too good, since it is chosen on what it is measured on.
      on_epoch: see `ProbeBank.fit`.
      **bank_options: `optimizer`, `weight_decay`, `eta`, `clip`, `head` of `ProbeBank`.

    Raises:
      UserError: missing labels, one class only, NaN features, rates that all diverge, no whole
        batch, or several rates and the best epoch.
    """
    train_features, train_labels, test_features, test_labels, classes = checked_pair(
        train_features, train_labels, test_features, test_labels
    )
    check_choice("report", report, REPORTS)
    if report == "best" and len(learning_rates) > 1:
        raise UserError("the best epoch on test data needs a single learning rate: name one")
    rows, held = np.arange(len(train_features)), np.arange(0)
    if len(learning_rates) > 1:
        rows, held = split_validation(train_labels, validation_fraction, seed)
    if drop_last and len(rows) < batch_size:
        raise UserError(f"{len(rows)} train images make no batch of {batch_size}: lower it")
    width = train_features.shape[1]
    prepare = Standardizer(np.zeros(width, np.float32), np.ones(width, np.float32))
    if standardize:
        prepare = Standardizer.of(train_features[rows])
    if batches is None:
        inputs = prepare(train_features[rows]), train_labels[rows]
        source = shuffled_batches(*inputs, batch_size, seed, drop_last)
    else:
        source = batches(rows, prepare)
    bank = ProbeBank(width, classes, learning_rates, seed=seed, **bank_options)
    best: tuple[float, int, Any] = (-1.0, 0, None)

    def after(epoch: int, bank: ProbeBank) -> None:
        nonlocal best
        if report == "best":
            [right] = bank.accuracies(prepare(test_features), test_labels).values()
            if right > best[0]:
                best = right, epoch + 1, bank.weights(0)
        if on_epoch is not None:
            on_epoch(epoch, bank)

    bank.fit(source, epochs, decay_epochs, after)
    which, validation = 0, {}
    if len(held):
        which, validation = bank.best(prepare(train_features[held]), train_labels[held])
    return ProbeResult(
        *prepare.folded(*(bank.weights(which) if report == "last" else best[2])),
        test_features,
        chosen=bank.learning_rates[which],
        validation=validation,
        train_count=len(rows),
        note=f"epoch {best[1]}, the best on test data" if report == "best" else "",
    )
