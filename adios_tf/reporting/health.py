"""Is it working? Numbers that need no labels, their healthy ranges and what to do outside.

The ranges are rules of thumb for features of an encoder before its projector and for masks
that share every pixel among N slots; they are data, so that a project can adjust them. What
they rest on: augmented CIFAR-10 images through untrained encoders that end in a ReLU and an
average (ResNet-18 and a small one) have spread 0.10 and 0.25, uniformity -0.05 and -0.32;
the small one after 300 steps of SimCLR has spread 0.57, uniformity -1.2, alignment 0.26. In the
quickstart no gradient norm rose above 1.7 times its median before.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

DEAD_BELOW, DEAD_ABOVE = 0.02, 0.98


def _normalized(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def feature_health(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Returns the health of the features of two views of the same images.

    - `feature_spread`: standard deviation of the l2-normalized features of the first view,
      averaged over dimensions, times sqrt(D): 0 collapsed, 1 spread all around (Chen & He
      2021, section 4.1).
    - `effective_rank`: exponential of the entropy of the normalized singular values of the
      first view's l2-normalized features, from 1 to min(B, D) (Roy & Vetterli 2007; RankMe,
      Garrido et al. 2023).
    - `alignment`: mean squared distance between the l2-normalized views of an image, from 0
      to 4; `uniformity`: log of the mean of exp(-2 squared distance) over pairs of different
      images of the first view, from about -4 to 0 (Wang & Isola 2020).

    Args:
      first, second: [B,D] features, row i of both from image i; B at least 2.

    Raises:
      ValueError: the shapes differ or hold fewer than two rows.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) < 2:
        raise ValueError(f"features must be two [B,D], B > 1: {first.shape}, {second.shape}")
    one, two = _normalized(first), _normalized(second)
    count, width = one.shape
    shares = np.linalg.svd(one, compute_uv=False)
    shares = shares[shares > 0] / max(shares.sum(), 1e-300)
    cosines = (one @ one.T)[np.triu_indices(count, 1)]
    return {
        "feature_spread": float(one.std(axis=0).mean() * math.sqrt(width)),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "alignment": float(((one - two) ** 2).sum(axis=1).mean()),
        "uniformity": float(np.log(np.exp(-4.0 * (1.0 - cosines)).mean())),
    }


def mask_health(masks: np.ndarray) -> dict[str, float]:
    """Returns the health of masks.

    - `coverage_{n}_{min,mean,max}`: hidden part of the image in slot n, over images.
    - `dead_slots`: slots whose mean coverage is below 0.02 or above 0.98.
    - `overlap`: how much the slots hide the same pixels, 0 to 1: the mean over pixels, weighted by
      min(sum(m), 1), of `(sum(m)^2 - sum(m^2)) / ((N - 1) sum(m^2))`, sums over slots. Zero for
      disjoint hard masks, 1 for equal ones.
    - `mask_sharpness`: mean over pixels of the largest slot; 1 is a hard choice, 1/N none.
    - `mask_variation`: part of the masks' variance that comes from the images rather than
      from a layout they share, 0 to 1; 0 where the masks do not look at the image.

    Args:
      masks: [B,H,W,N] in [0,1], 1 = hidden.

    Raises:
      ValueError: not four dimensions, or no image.
    """
    masks = np.asarray(masks, np.float64)
    if masks.ndim != 4 or 0 in masks.shape:
        raise ValueError(f"masks must be [B,H,W,N] and hold something, got {masks.shape}")
    slots = masks.shape[-1]
    coverage = masks.mean(axis=(1, 2))
    health: dict[str, float] = {}
    for slot, values in enumerate(coverage.T):
        for name, reduce in (("min", np.min), ("mean", np.mean), ("max", np.max)):
            health[f"coverage_{slot}_{name}"] = float(reduce(values))
    mean = coverage.mean(axis=0)
    squares = (masks**2).sum(axis=-1)
    shared = masks.sum(axis=-1) ** 2 - squares
    total = masks.var(axis=(0, 1, 2)).mean()
    health["dead_slots"] = int(((mean < DEAD_BELOW) | (mean > DEAD_ABOVE)).sum())
    hidden = np.minimum(masks.sum(axis=-1), 1)
    shared *= hidden / np.maximum((slots - 1) * squares, 1e-12)
    health["overlap"] = float(shared.sum() / max(hidden.sum(), 1e-12))
    health["mask_sharpness"] = float(masks.max(axis=-1).mean())
    health["mask_variation"] = float(masks.var(axis=0).mean() / total) if total > 1e-12 else 0.0
    return health


def image_health(views: np.ndarray) -> dict[str, float]:
    """Returns `constant_images`: part of the views [B,S,S,3] with no contrast, or with NaN."""
    contrast = np.ptp(views, axis=(1, 2)).max(axis=-1)
    return {"constant_images": float(1 - np.mean(contrast > 1e-3))}


def gradient_rise(
    earlier: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> dict[str, float]:
    """Returns every gradient norm of a record over its median in the ten epochs before.

    Nothing where fewer than three came before.
    """
    found = {}
    for name in ("encoder_gradient_", "masker_gradient_"):
        norms = [r[f"{name}norm"] for r in earlier[-10:] if r.get(f"{name}norm")]
        if len(norms) > 2:
            found[f"{name}rise"] = record[f"{name}norm"] / float(np.median(norms))
    return found


Bound = float | Callable[[int, int], float] | None


@dataclass(frozen=True)
class Rule:
    """One health metric: its range and the text around it.

    Attributes:
      pattern: regular expression of the metric's name.
      low, high: the healthy range, ends included; None = open; a function takes
        (slots N, feature width D).
      meaning: what the number says, in one line.
      too_low, too_high: what it means outside, and what to do.
      needs_slots: only judged for at least this many slots.
      guard: epochs in a row outside after which training says so; 0 = only the report does.
    """

    pattern: str
    low: Bound
    high: Bound
    meaning: str
    too_low: str = ""
    too_high: str = ""
    needs_slots: int = 0
    guard: int = 0

    def range(self, num_masks: int, feature_dim: int) -> tuple[float | None, float | None]:
        """Returns the ends of the range for this many slots and this feature width."""
        ends = [
            end(num_masks, feature_dim) if callable(end) else end for end in (self.low, self.high)
        ]
        return ends[0], ends[1]


_RAISE_PENALTY = "raise the sparsity penalty or lower the masker's learning rate"
_FEWER = "or use fewer slots"

RULES = (
    Rule(
        "constant_images",
        None,
        0.05,
        "part of the views that show one color",
        too_high="images without contrast teach nothing: take them out, raise --min_scale",
        guard=1,
    ),
    Rule(
        "feature_spread",
        0.3,
        None,
        "how far features point apart (0 collapsed, 1 all around)",
        too_low="features collapse onto one direction: lower the learning rates, check that "
        "BatchNorm stands in the heads (BYOL, SimSiam), raise the batch size or temperature "
        "(SimCLR)",
        guard=3,
    ),
    Rule(
        "effective_rank",
        lambda slots, width: max(3.0, min(32.0, 0.05 * width)),
        None,
        "number of directions that the features really use",
        too_low="features use few directions: strengthen the color augmentation, train "
        "longer, lower the weight decay",
    ),
    Rule(
        "alignment",
        0.001,
        1.2,
        "squared distance between two views of an image (0 equal, 2 unrelated)",
        too_low="the views are told apart no more: collapse if the spread is low too, "
        "otherwise the augmentation is too weak",
        too_high="two views of an image are strangers: weaken the augmentation (larger "
        "min_scale) or train longer",
    ),
    Rule(
        "uniformity",
        None,
        -0.5,
        "log density of features around each other (0 collapsed, -4 uniform)",
        too_high="features crowd together: see feature_spread; with SimCLR lower the "
        "temperature or raise the batch size",
    ),
    Rule(
        r"coverage_\d+_min",
        0.001,
        None,
        "smallest part of an image that the slot hides",
        too_low=f"the slot hides nothing in some image: {_RAISE_PENALTY}",
        needs_slots=1,
    ),
    Rule(
        r"coverage_\d+_mean",
        lambda slots, width: 0.25 / slots,
        lambda slots, width: 0.9 if slots < 3 else min(0.9, 2.5 / slots),
        "average part of an image that the slot hides (1/N is even)",
        too_low=f"the slot is starving: {_RAISE_PENALTY}, {_FEWER}",
        too_high=f"the slot swallows the others: {_RAISE_PENALTY}",
        needs_slots=1,
    ),
    Rule(
        r"coverage_\d+_max",
        None,
        0.95,
        "largest part of an image that the slot hides",
        too_high=f"the slot hides a whole image: {_RAISE_PENALTY}",
        needs_slots=1,
    ),
    Rule(
        "dead_slots",
        None,
        0.0,
        "slots that hide nearly nothing or nearly everything",
        too_high=f"slots died: {_RAISE_PENALTY}, {_FEWER}",
        needs_slots=1,
        guard=3,
    ),
    Rule(
        "overlap",
        None,
        0.7,
        "how much the slots hide the same pixels (0 apart, 1 alike)",
        too_high="the slots hide the same: raise the masker's learning rate or train longer; "
        "if it persists, lower the sparsity penalty",
        needs_slots=2,
        guard=3,
    ),
    Rule(
        "mask_sharpness",
        lambda slots, width: 1 / slots + 0.15 * (1 - 1 / slots),
        None,
        "largest slot at a pixel, on average (1 hard, 1/N undecided)",
        too_low="all slots are uniform, so nothing is hidden whole: raise the masker's "
        "learning rate; if it persists, lower the sparsity penalty",
        needs_slots=2,
        guard=3,
    ),
    Rule(
        "mask_variation",
        0.1,
        None,
        "part of the masks that depends on the image (0 a fixed layout)",
        too_low="every image gets the same masks: the masker learned a layout; lower its "
        "learning rate, check that images are normalized",
        needs_slots=1,
        guard=3,
    ),
    Rule(
        "encoder_gradient_norm",
        1e-6,
        None,
        "l2 norm of the gradient of encoder and heads, averaged over the updates",
        too_low="the encoder learns nothing: see whether features or masks have collapsed",
        guard=3,
    ),
    Rule(
        "masker_gradient_norm",
        1e-6,
        None,
        "l2 norm of the masker's gradient, averaged over the updates",
        too_low="the masker learns nothing: its masks are saturated or no longer reach the "
        "distance; " + _RAISE_PENALTY,
        guard=3,
    ),
    *(
        Rule(
            f"{side}_gradient_rise",
            None,
            10.0,
            "gradient norm over its median in the ten epochs before",
            too_high=f"the gradient explodes: lower the {side}'s learning rate or warm up longer",
            guard=1,
        )
        for side in ("encoder", "masker")
    ),
)


def range_text(low: float | None, high: float | None, percent: bool = False) -> str:
    """Returns a healthy range in words of mathematics: '≥ 0.3', '0.001 – 1.2', '≤ 5%'."""
    scale, unit = (100, "%") if percent else (1, "")
    ends = ["" if end is None else f"{scale * end:.2g}{unit}" for end in (low, high)]
    if low is None:
        return f"≤ {ends[1]}" if high is not None else "any"
    return f"≥ {ends[0]}" if high is None else f"{ends[0]} – {ends[1]}"


class Verdict(NamedTuple):
    """One metric judged. `range` is (low, high), None where open; `advice` is empty if ok."""

    metric: str
    value: float
    range: tuple[float | None, float | None]
    ok: bool
    advice: str
    meaning: str


def rule_of(metric: str) -> Rule | None:
    """Returns the rule for a metric's name, None where there is none."""
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, metric)), None)


def verdicts(
    record: Mapping[str, Any], num_masks: int | None = None, feature_dim: int | None = None
) -> list[Verdict]:
    """Judges every health metric of an epoch's record.

    Args:
      record: metric -> number; names without a rule are passed over, None counts as not
        finite.
      num_masks: slots N; None = as many as the record has coverages of.
      feature_dim: feature width D; None = unknown, which leaves the weakest bound.

    Returns:
      One `Verdict` per metric with a rule, in the order of `RULES`, then of the record.
    """
    if num_masks is None:
        num_masks = sum(bool(re.fullmatch(r"coverage_\d+_mean", name)) for name in record)
    found = []
    for rule in RULES:
        for metric, value in record.items():
            if not re.fullmatch(rule.pattern, metric) or num_masks < rule.needs_slots:
                continue
            low, high = rule.range(num_masks, feature_dim or 0)
            value = math.nan if value is None else float(value)
            advice = ""
            if not math.isfinite(value):
                advice = "not a number: lower the learning rates or use float32"
            elif low is not None and value < low:
                advice = rule.too_low
            elif high is not None and value > high:
                advice = rule.too_high
            found.append(Verdict(metric, value, (low, high), not advice, advice, rule.meaning))
    return found


def alarms(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for every metric that has just been unhealthy for as long as its guard waits.

    Args:
      records: of all epochs so far.
    """
    lines = []
    for verdict in verdicts(records[-1]):
        wait = rule_of(verdict.metric).guard
        last = [v for r in records[-wait - 1 :] for v in verdicts(r) if v.metric == verdict.metric]
        outside = [not v.ok for v in last]
        if wait and outside in ([True] * wait, [False] + [True] * wait):
            healthy = range_text(*verdict.range)
            lines.append(
                f"{verdict.metric} {verdict.value:.3g} (healthy {healthy}): {verdict.advice}"
            )
    return lines
