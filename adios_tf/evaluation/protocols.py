"""The protocols, each a small plugin: given a context, yield groups of rows.

A protocol is a generator. It asks the context for features, labels or batches and yields a list
of rows whenever a piece of work is done; the runner times the pieces, prints and saves.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.evaluation import clustering as kmeans
from adios_tf.evaluation import linear as probes
from adios_tf.evaluation import mask_quality
from adios_tf.evaluation.augmentation import steps_per_epoch
from adios_tf.evaluation.context import EvaluationContext, PartialResult
from adios_tf.evaluation.finetune import fine_tune
from adios_tf.evaluation.knn import DISTANCES, knn_predict
from adios_tf.evaluation.metrics import accuracies, rank_classes
from adios_tf.evaluation.splits import label_fraction_indices
from adios_tf.evaluation.validation import checked_labels
from adios_tf.registry import Registry, check_choice
from adios_tf.reporting.health import feature_health, mask_health, range_text, verdicts

PROTOCOLS = Registry("protocol")

Groups = Iterator[list[PartialResult]]

HEALTH_IMAGES = 256
_SHARES = ("feature_spread", "uniformity", "overlap", "mask_sharpness", "mask_variation")


@PROTOCOLS.register("knn", "weighted vote of the nearest neighbors")
def knn(context: EvaluationContext) -> Groups:
    """Exact kNN; cosine votes weigh exp(cos / T), Euclidean ones 1 / (distance + 1e-5)."""
    config, labels = context.config, context.test.labels
    for distance in config.knn_distance:
        check_choice("distance", distance, DISTANCES)
        data, group = context.feature_pairs(), []
        found = knn_predict(*data, config.knn_k, config.knn_temperature, distance)
        for k, one in found.items():
            settings = {"k": k, "distance": distance, "normalization": "none"}
            if distance == "cosine":
                settings |= {"T": config.knn_temperature, "normalization": "l2"}
            changed = {"knn_k": (k,), "knn_distance": (distance,)}
            group += _rows([one], labels, f"k={k} {distance}", settings, ("knn",), changed)
        yield group


def _rows(
    predicted: list[np.ndarray],
    labels: np.ndarray,
    variant: str,
    settings: dict,
    groups: tuple[str, ...],
    changed: dict | None = None,
) -> list[PartialResult]:
    """Returns one row per metric of `accuracies`, with a value for each seed's prediction."""
    found = [accuracies(one, labels) for one in predicted]
    right = {"top1": predicted[0][:, 0] == labels} if labels.ndim == 1 else {}
    values = {name: tuple(one[name] for one in found) for name in found[0]}
    shared = variant, settings, groups, changed or {}
    return [PartialResult(name, v, *shared, right.get(name)) for name, v in values.items()]


def _score_rows(scores: list[np.ndarray], labels: np.ndarray, *rest: Any) -> list[PartialResult]:
    """Returns `_rows` of classifiers' scores, one [Q,C] for each seed."""
    several = labels.ndim == 2
    return _rows(scores if several else [rank_classes(one, 5) for one in scores], labels, *rest)


def _probe_rows(
    context: EvaluationContext, name: str, results: list, settings: dict, groups
) -> list[PartialResult]:
    first, best = results[0], [max(one.validation.values(), default=math.nan) for one in results]
    fraction = f"{context.config.validation_fraction:g} of train"
    settings = {
        # Seeds may choose differently.
        name: " ".join(f"{chosen:g}" for chosen in dict.fromkeys(one.chosen for one in results)),
        "chosen on": fraction if first.validation else "nothing",
        "trained on": first.train_count,
        **settings,
        "note": first.note,
    }
    if first.validation:
        settings["validation"] = f"{100 * np.mean(best):.2f}"
    scores = [one.scores for one in results]
    return _score_rows(scores, context.test.labels, "", settings, groups)


@PROTOCOLS.register("linear", "logistic regression on cached features, to convergence")
def linear(context: EvaluationContext) -> Groups:
    config, data = context.config, context.feature_pairs()
    how = config.probe_strengths, config.validation_fraction
    results = [probes.logistic_probe(*data, *how, seed) for seed in config.seeds]
    if config.save_classifier:
        context.save_classifier(results[0])
    settings = {"normalization": "standardized", "solver": "L-BFGS, refit on all of train"}
    yield _probe_rows(context, "l2", results, settings, ("linear",))


_SGD = "optimizer weight_decay eta clip head standardize drop_last report".split()


def _sgd_rows(context: EvaluationContext, augmented: bool) -> list[PartialResult]:
    config, results = context.config, []
    for seed in config.seeds:
        batches = partial(context.augmented_features, seed=seed) if augmented else None
        results.append(
            probes.sgd_probe(
                *context.feature_pairs(),
                config.sgd_learning_rates,
                config.sgd_epochs,
                config.sgd_decay_epochs,
                config.sgd_batch_size,
                config.validation_fraction,
                seed,
                batches,
                **{name: getattr(config, f"sgd_{name}") for name in _SGD},
            )
        )
    settings = {
        "normalization": "standardized" if config.sgd_standardize else "none",
        "solver": f"{config.sgd_optimizer.upper()}, batch {config.sgd_batch_size}",
        "epochs": config.sgd_epochs,
        "decay at": " ".join(map(str, config.sgd_decay_epochs)),
        "augmentation": context.probe_augmentation.line(context.spec.size) if augmented else "none",
    }
    return _probe_rows(context, "learning rate", results, settings, ("linear", "linear_sgd"))


@PROTOCOLS.register("linear_sgd", "the papers' linear probe, on cached features")
def linear_sgd(context: EvaluationContext) -> Groups:
    yield _sgd_rows(context, augmented=False)


@PROTOCOLS.register("linear_augmented", "the papers' linear probe, on augmented images")
def linear_augmented(context: EvaluationContext) -> Groups:
    if context.config.features == "pixels":
        raise UserError("linear_augmented probes an encoder: use --features=backbone")
    yield _sgd_rows(context, augmented=True)


_FINETUNE = "learning_rate warmup_epochs weight_decay optimizer eta clip head".split()


def _tuned(context: EvaluationContext, rows: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Fine-tunes a fresh encoder on some train images; returns test scores and epochs."""
    config = context.config
    if config.features != "backbone":
        raise UserError("fine-tuning trains the encoder: use --features=backbone")
    if config.protocol_preset == "mixmask":
        raise UserError("MixMask published no fine-tuning: leave out --protocol_preset=mixmask")
    size = min(config.finetune_batch_size, len(rows))
    steps = steps_per_epoch(len(rows), size, config.finetune_drop_last)
    epochs = max(config.finetune_epochs, math.ceil(config.finetune_steps / steps))
    batches = context.train.augmented(
        rows, size, epochs, seed, context.tuning_augmentation, config.finetune_drop_last
    )
    model = fine_tune(
        context.fresh_encoder(seed),
        batches,
        steps,
        context.classes,
        epochs,
        batchnorm=config.batchnorm,
        per_epoch=config.finetune_schedule_per_epoch,
        seed=seed,
        **{name: getattr(config, f"finetune_{name}") for name in _FINETUNE},
    )
    logits = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    return context.outputs(context.test, logits, "test"), epochs


def _tuned_rows(
    context: EvaluationContext, variant: str, choose, groups, changed: dict
) -> list[PartialResult]:
    config, chosen = context.config, [choose(seed) for seed in context.config.seeds]
    tuned = [_tuned(context, *one) for one in zip(chosen, config.seeds, strict=True)]
    scores, (epochs, *_) = zip(*tuned, strict=True)
    rows = chosen[0]
    settings = {
        "labeled images": len(rows),
        "learning rate": config.finetune_learning_rate,
        "weight decay": config.finetune_weight_decay,
        "epochs": epochs,
        "batch": min(config.finetune_batch_size, len(rows)),
        "augmentation": context.tuning_augmentation.line(context.spec.size),
        "BatchNorm": config.batchnorm,
        "optimizer": config.finetune_optimizer,
        "layers": "all, stem from the start" if context.stem != "keep" else "all",
    }
    return _score_rows(scores, context.test.labels, variant, settings, groups, changed)


@PROTOCOLS.register("finetune", "all layers trained on all labels")
def finetune(context: EvaluationContext) -> Groups:
    context.require_labels()
    every = np.arange(len(context.train.labels))
    yield _tuned_rows(context, "", lambda seed: every, ("finetune",), {})


@PROTOCOLS.register("semi", "all layers trained on 1 % and 10 % of the labels")
def semi(context: EvaluationContext) -> Groups:
    context.require_labels(several=False)
    for share in context.config.label_fractions:
        choose = partial(label_fraction_indices, context.train.labels, share)
        variant, changed = f"{100 * share:g}% labels", {"label_fractions": (share,)}
        yield _tuned_rows(context, variant, choose, ("finetune", "semi"), changed)


@PROTOCOLS.register("clustering", "k-means with one cluster per class, on the test split")
def clustering(context: EvaluationContext) -> Groups:
    config = context.config
    labels = checked_labels(context.test.labels, context.test.count, "test", classes=2)
    how = config.cluster_seeds, config.cluster_starts, config.cluster_normalize
    found = kmeans.cluster_scores(context.features(context.test), labels, *how)
    settings = {
        "clusters": len(np.unique(labels)),
        "starts": config.cluster_starts,
        "normalization": "l2" if config.cluster_normalize else "none",
    }
    yield [
        PartialResult(metric=name, values=tuple(values), settings=settings, groups=("clustering",))
        for name, values in found.items()
    ]


@PROTOCOLS.register("masks", "learned masks against ground truth, and what random masks score")
def masks(context: EvaluationContext) -> Groups:
    count = context.config.mask_images or None
    true = context.test.label_maps(count)
    learned = context.segmentation(count)
    slots = context.model.masker.output_shape[-1]
    blobs = mask_quality.random_segmentation(true.shape, slots, context.config.seeds[0])
    for variant, found in (("learned", learned), ("random", blobs)):
        scores = mask_quality.mask_scores(true, found)
        rows = []
        for name, values in scores.items():
            if number := int(np.isfinite(values).sum()):
                mean, settings = (float(np.nanmean(values)),), {"test": number, "slots": slots}
                rows.append(PartialResult(name, mean, variant, settings, ("masks",)))
        yield rows


@PROTOCOLS.register("health", "spread of features, state of masks; needs no labels")
def health(context: EvaluationContext) -> Groups:
    """The metrics of `adios_tf.reporting.health` that one view tells, on 256 test images."""
    count = min(context.test.count, HEALTH_IMAGES)
    features = context.features(context.test)[:count]
    if count < 2:
        raise UserError("health compares images with each other, and there is one test image only")
    found, width, slots = feature_health(features, features), features.shape[1], 0
    if context.model.masker is not None:
        masks = context.masks(count)
        found |= mask_health(masks)
        slots = masks.shape[-1]
    rows = []
    for one in verdicts(found, slots, width):
        settings = {"test": count, "healthy": range_text(*one.range), "verdict": one.advice or "ok"}
        if one.metric in _SHARES:
            rows.append(PartialResult(one.metric, (one.value,), "", settings))
        elif one.metric == "effective_rank":
            settings["directions"] = f"{one.value:.1f} of {width}"
            share = one.value / width
            rows.append(PartialResult("effective_rank_share", (share,), "", settings))
    yield rows
