"""The protocols, each a small plugin: given a context, yield groups of rows.

A protocol is a generator. It asks the context for features, labels or batches and yields a list
of rows whenever a piece of work is done; the runner times the pieces, prints and saves.
"""

import math
from collections.abc import Iterator
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
from adios_tf.evaluation.knn import DISTANCES, knn_multi_label, knn_predict
from adios_tf.evaluation.metrics import multi_label_scores, rank_classes, top_accuracy
from adios_tf.evaluation.splits import label_fraction_indices
from adios_tf.evaluation.validation import checked_labels
from adios_tf.registry import Registry, unknown_name
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
        if distance not in DISTANCES:
            raise unknown_name("distance", distance, DISTANCES)
        predict = knn_multi_label if context.multi_label else knn_predict
        found = predict(*context.feature_pairs(), config.knn_k, config.knn_temperature, distance)
        group = []
        for k, one in found.items():
            settings = {"k": k, "distance": distance, "normalization": "none"}
            if distance == "cosine":
                settings |= {"T": config.knn_temperature, "normalization": "l2"}
            changed = {"knn_k": (k,), "knn_distance": (distance,)}
            variant = f"k={k} {distance}"
            rows = _f1_rows if context.multi_label else _top_rows
            group += rows([one], labels, variant, settings, ("knn",), changed)
        yield group


def _top_rows(
    ranked: list[np.ndarray],
    labels: np.ndarray,
    variant: str,
    settings: dict,
    groups: tuple[str, ...],
    changed: dict | None = None,
) -> list[PartialResult]:
    """Returns the rows of top-1 and top-5 accuracy, one value per ranking [Q,n]."""
    rows = []
    for name, n in (("top1", 1), ("top5", 5)):
        rows.append(
            PartialResult(
                metric=name,
                variant=variant,
                values=tuple(top_accuracy(order, labels, n) for order in ranked),
                settings=settings,
                groups=groups,
                changed=changed or {},
                correct=ranked[0][:, 0] == labels if n == 1 else None,
            )
        )
    return rows


def _f1_rows(
    scores: list[np.ndarray],
    labels: np.ndarray,
    variant: str,
    settings: dict,
    groups: tuple[str, ...],
    changed: dict | None = None,
) -> list[PartialResult]:
    """Returns the rows of F1 and accuracy of several labels [Q,C], one value per scores [Q,C]."""
    found = [multi_label_scores(one, labels) for one in scores]
    return [
        PartialResult(
            metric=name,
            variant=variant,
            values=tuple(one[name] for one in found),
            settings=settings,
            groups=groups,
            changed=changed or {},
        )
        for name in found[0]
    ]


def _score_rows(scores: list[np.ndarray], labels: np.ndarray, *rest: Any) -> list[PartialResult]:
    """Returns `_top_rows` or, for labels [Q,C], `_f1_rows`, of one [Q,C] for each seed."""
    if labels.ndim == 2:
        return _f1_rows(scores, labels, *rest)
    return _top_rows([rank_classes(one, 5) for one in scores], labels, *rest)


def _listed(values: list) -> str:
    """Returns the distinct values, such as the choices of several seeds, as text."""
    return " ".join(f"{value:g}" for value in dict.fromkeys(values))


def _probe_rows(
    context: EvaluationContext, name: str, results: list, settings: dict, groups
) -> list[PartialResult]:
    settings = {
        name: _listed([result.chosen for result in results]),
        "chosen on": f"{context.config.validation_fraction:g} of train"
        if results[0].validation
        else "nothing",
        "trained on": results[0].train_count,
        **settings,
        "note": results[0].note,
    }
    best = [max(result.validation.values(), default=math.nan) for result in results]
    if not math.isnan(best[0]):
        settings["validation"] = f"{100 * np.mean(best):.2f}"
    scores = [result.scores for result in results]
    return _score_rows(scores, context.test.labels, "", settings, groups)


@PROTOCOLS.register("linear", "logistic regression on cached features, to convergence")
def linear(context: EvaluationContext) -> Groups:
    config = context.config
    results = [
        probes.logistic_probe(
            *context.feature_pairs(), config.probe_strengths, config.validation_fraction, seed
        )
        for seed in config.seeds
    ]
    if config.save_classifier:
        context.save_classifier(results[0])
    settings = {"normalization": "standardized", "solver": "L-BFGS, refit on all of train"}
    yield _probe_rows(context, "l2", results, settings, ("linear",))


def _sgd_rows(context: EvaluationContext, augmented: bool) -> list[PartialResult]:
    config, results = context.config, []
    for seed in config.seeds:

        def views(rows: np.ndarray, prepare: probes.Standardizer, seed: int = seed):
            return context.augmented_features(rows, prepare, seed)

        batches = views if augmented else None
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
                optimizer=config.sgd_optimizer,
                weight_decay=config.sgd_weight_decay,
                eta=config.sgd_eta,
                clip=config.sgd_clip,
                head=config.sgd_head,
                standardize=config.sgd_standardize,
                drop_last=config.sgd_drop_last,
                report=config.sgd_report,
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
        config.finetune_learning_rate,
        config.finetune_warmup_epochs,
        config.finetune_weight_decay,
        batchnorm=config.batchnorm,
        optimizer=config.finetune_optimizer,
        eta=config.finetune_eta,
        clip=config.finetune_clip,
        per_epoch=config.finetune_schedule_per_epoch,
        head=config.finetune_head,
        seed=seed,
    )

    @tf.function(reduce_retracing=True)
    def logits(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)

    return context.outputs(context.test, logits, "test"), epochs


def _tuned_rows(
    context: EvaluationContext, variant: str, choose, groups, changed: dict
) -> list[PartialResult]:
    config, scores = context.config, []
    for seed in config.seeds:
        rows = choose(seed)
        found, epochs = _tuned(context, rows, seed)
        scores.append(found)
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

        def choose(seed: int, share: float = share) -> np.ndarray:
            return label_fraction_indices(context.train.labels, share, seed)

        yield _tuned_rows(
            context,
            f"{100 * share:g}% labels",
            choose,
            ("finetune", "semi"),
            {"label_fractions": (share,)},
        )


@PROTOCOLS.register("clustering", "k-means with one cluster per class, on the test split")
def clustering(context: EvaluationContext) -> Groups:
    config = context.config
    labels = checked_labels(context.test.labels, context.test.count, "test", classes=2)
    found = kmeans.cluster_scores(
        context.features(context.test),
        labels,
        config.cluster_seeds,
        config.cluster_starts,
        config.cluster_normalize,
    )
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
        yield [
            PartialResult(
                metric=name,
                variant=variant,
                values=(float(np.nanmean(values)),),
                settings={
                    "test": int(np.isfinite(values).sum()),
                    "slots": slots,
                },
                groups=("masks",),
            )
            for name, values in scores.items()
            if np.isfinite(values).any()
        ]


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
