"""Protocols that change the test images: backgrounds exchanged, corruptions added.

Both train one linear probe on clean features and ask what it still recognizes.
"""

import numpy as np

from adios_tf.errors import UserError
from adios_tf.evaluation.backgrounds import VARIANTS, background_scores
from adios_tf.evaluation.context import EvaluationContext, PartialResult
from adios_tf.evaluation.corruptions import CORRUPTIONS, corrupt, corruption_scores
from adios_tf.evaluation.data import Split
from adios_tf.evaluation.linear import ProbeResult, logistic_probe
from adios_tf.evaluation.metrics import rank_classes
from adios_tf.evaluation.protocols import PROTOCOLS, Groups
from adios_tf.evaluation.validation import checked_labels
from adios_tf.registry import check_choice

CLASSIFIER = "logistic regression on clean features"


def _probe(context: EvaluationContext, train: Split, test: Split) -> ProbeResult:
    checked_labels(train.labels, train.count, "train", classes=2)
    checked_labels(test.labels, test.count, "test")
    config = context.config
    data = context.features(train), train.labels, context.features(test), test.labels
    how = config.probe_strengths, config.validation_fraction, config.seeds[0]
    return logistic_probe(*data, *how)


def _right(probe: ProbeResult, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns [n] bool, which examples the probe recognizes."""
    return rank_classes(probe.score(features), 1)[:, 0] == labels


@PROTOCOLS.register("backgrounds", "accuracy when the background is exchanged, and the BG-gap")
def backgrounds(context: EvaluationContext) -> Groups:
    for name in context.config.background_variants:
        check_choice("background variant", name, VARIANTS)
    train, variants = context.background_splits()
    probe = _probe(context, train, next(iter(variants.values())))
    correct = {
        name: _right(probe, context.features(split), split.labels)
        for name, split in variants.items()
    }
    shared: dict = {"classifier": CLASSIFIER, "l2": f"{probe.chosen:g}"}
    if context.config.backgrounds_dir:
        shared["train"] = train.count
    rows = []
    for name, value in background_scores(correct).items():
        gap = name == "bg_gap"
        names = ("mixed_same", "mixed_rand") if gap else (name,)
        rows.append(
            PartialResult(
                metric="gap" if gap else "top1",
                values=(value,),
                variant=" - ".join(names),
                settings=shared | {"test": variants[names[0]].count},
                groups=("linear", "backgrounds"),
                changed={"background_variants": names},
                correct=correct.get(name),
            )
        )
    yield rows


@PROTOCOLS.register("corruptions", "accuracy under noise, blur, contrast, JPEG, ...")
def corruptions(context: EvaluationContext) -> Groups:
    config = context.config
    if not config.corruptions or not config.severities:
        raise UserError("no corruption to test: name some in --corruptions and --severities")
    for name in config.corruptions:
        CORRUPTIONS[name]
    probe = _probe(context, context.train, context.test)
    images = context.test.pictures(config.corruption_images or None)
    labels = context.test.labels[: len(images)]

    def right(pictures: np.ndarray, title: str) -> np.ndarray:
        return _right(probe, context.encode(pictures, title), labels)

    hits = {("clean", 0): right(images, "clean")}
    for name in config.corruptions:
        for severity in config.severities:
            changed = corrupt(images, name, severity, config.seeds[0])
            hits[name, severity] = right(changed, f"{name} {severity}")
    accuracy = {key: float(found.mean()) for key, found in hits.items()}
    clean = accuracy.pop(("clean", 0))
    context.corruption_curve = (clean, accuracy)
    settings = {
        "classifier": CLASSIFIER,
        "l2": f"{probe.chosen:g}",
        "severities": " ".join(map(str, config.severities)),
        "test": len(images),
    }

    groups = ("linear", "corruptions")
    rows = [PartialResult("top1", (clean,), "clean", settings, groups)]
    for name, value in corruption_scores(clean, accuracy).items():
        if name in config.corruptions:
            alone = {"corruptions": (name,)}
            rows.append(PartialResult("top1", (value,), name, settings, groups, alone))
        else:
            rows.append(PartialResult(name, (value,), "", settings, groups))
    yield rows
