import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adios_tf.reporting.health import (
    RULES,
    alarms,
    feature_health,
    gradient_rise,
    image_health,
    mask_health,
    range_text,
    rule_of,
    verdicts,
)


def test_features_at_the_corners_of_a_square():
    """Four unit vectors east, north, west, south; the second view turned by 90 degrees."""
    first = np.array([[2, 0], [0, 0.5], [-1, 0], [0, -3]])
    second = np.array([[0, 1], [-1, 0], [0, -1], [1, 0]])
    health = feature_health(first, second)
    # Each dimension holds 1, 0, -1, 0: standard deviation sqrt(1/2).
    assert health["feature_spread"] == pytest.approx(1.0)
    assert health["effective_rank"] == pytest.approx(2.0)
    assert health["alignment"] == pytest.approx(2.0)
    # Six pairs: four at squared distance 2, two at 4.
    expected = math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6)
    assert health["uniformity"] == pytest.approx(expected)


def test_collapsed_features():
    features = np.tile([[1.0, 2.0, 2.0]], (5, 1))
    assert feature_health(features, 3 * features) == pytest.approx(
        {"feature_spread": 0, "effective_rank": 1, "alignment": 0, "uniformity": 0}, abs=1e-9
    )


def test_effective_rank_of_unequal_directions():
    """Three rows along x, one along y: singular values sqrt(3) and 1."""
    features = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    p = np.array([math.sqrt(3), 1]) / (math.sqrt(3) + 1)
    expected = math.exp(-(p * np.log(p)).sum())
    assert feature_health(features, features)["effective_rank"] == pytest.approx(expected)


def test_a_zero_feature_makes_no_nan():
    features = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert all(math.isfinite(v) for v in feature_health(features, features).values())
    assert all(math.isfinite(v) for v in feature_health(0 * features, features).values())


@pytest.mark.parametrize(("one", "two"), [((4, 3), (4, 2)), ((1, 3), (1, 3)), ((3,), (3,))])
def test_features_of_wrong_shape_are_refused(one, two):
    with pytest.raises(ValueError, match="features must be"):
        feature_health(np.ones(one), np.ones(two))


def test_hard_disjoint_masks():
    """Image 0 hides its left column in slot 0, image 1 its right; slot 1 the others."""
    left = np.array([[1.0, 0], [1, 0]])
    masks = np.stack([np.stack([left, 1 - left], -1), np.stack([1 - left, left], -1)])
    health = mask_health(masks)
    assert health == {
        **{f"coverage_{n}_{name}": 0.5 for n in (0, 1) for name in ("min", "mean", "max")},
        "dead_slots": 0,
        "overlap": 0.0,
        "mask_sharpness": 1.0,
        "mask_variation": 1.0,
    }


def test_uniform_masks():
    health = mask_health(np.full((3, 4, 4, 4), 0.25))
    assert health["overlap"] == pytest.approx(1.0)
    assert health["mask_sharpness"] == pytest.approx(0.25)
    assert health["mask_variation"] == 0.0
    assert health["coverage_2_mean"] == pytest.approx(0.25)


def test_one_slot_that_takes_all_leaves_all_dead():
    masks = np.zeros((2, 3, 3, 3))
    masks[..., 1] = 1.0
    health = mask_health(masks)
    assert health["dead_slots"] == 3
    assert (health["coverage_0_max"], health["coverage_1_min"]) == (0.0, 1.0)


def test_partial_overlap_by_hand():
    """One pixel: 0.8 and 0.2 overlap by (1 - 0.68) / 0.68; another is hidden by nobody.

    A third that is hidden by half in one slot counts by half.
    """
    masks = np.array([[[[0.8, 0.2], [0.0, 0.0]]]])
    assert mask_health(masks)["overlap"] == pytest.approx(0.32 / 0.68)
    masks = np.array([[[[0.8, 0.2], [0.0, 0.0], [0.5, 0.0]]]])
    assert mask_health(masks)["overlap"] == pytest.approx((0.32 / 0.68) / 1.5)


def test_half_fixed_half_varying_layout():
    """Four pixels, one slot: two fixed at 0 and 1, two that swap between the images."""
    masks = np.array([[0, 1, 0, 1], [0, 1, 1, 0]], float).reshape(2, 2, 2, 1)
    # Variance in all 1/4; between images 0, 0, 1/4, 1/4.
    assert mask_health(masks)["mask_variation"] == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (3, 4, 4, 3), elements=st.floats(0, 1, width=32)))
def test_every_mask_number_stays_in_its_range(masks):
    health = mask_health(masks)
    for name in ("overlap", "mask_sharpness", "mask_variation"):
        assert -1e-9 <= health[name] <= 1 + 1e-9
    for slot in range(3):
        low, mean, high = (health[f"coverage_{slot}_{n}"] for n in ("min", "mean", "max"))
        assert 0 <= low <= mean + 1e-9
        assert mean <= high + 1e-9


@pytest.mark.parametrize("shape", [(2, 3, 3), (0, 3, 3, 2)])
def test_masks_of_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="masks must be"):
        mask_health(np.zeros(shape))


def _healthy_record():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(128, 64))
    noisy = features + 0.3 * rng.normal(size=features.shape)
    logits = 4 * rng.normal(size=(8, 12, 12, 4))
    masks = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    norms = {"encoder_gradient_norm": 1.5, "masker_gradient_norm": 0.2}
    record = {"epoch": 3, **feature_health(features, noisy), **mask_health(masks), **norms}
    views = rng.normal(size=(8, 4, 4, 3))
    return record | image_health(views) | gradient_rise([record] * 3, record)


def test_healthy_numbers_have_no_advice_and_every_rule_is_asked():
    found = verdicts(_healthy_record(), 4, 64)
    assert len(found) == 1 + 4 + 3 * 4 + 4 + 4
    assert all(v.ok and not v.advice and v.meaning for v in found)
    asked = {rule_of(v.metric).pattern for v in found}
    assert asked == {rule.pattern for rule in RULES}


@pytest.mark.parametrize(
    ("metric", "value", "word"),
    [
        ("feature_spread", 0.1, "collapse"),
        ("effective_rank", 3.1, "few directions"),
        ("alignment", 0.0, "augmentation"),
        ("alignment", 1.9, "augmentation"),
        ("uniformity", -0.2, "crowd"),
        ("coverage_2_min", 0.0, "penalty"),
        ("coverage_2_mean", 0.03, "starving"),
        ("coverage_2_mean", 0.7, "swallows"),
        ("coverage_2_max", 0.99, "whole image"),
        ("dead_slots", 1, "died"),
        ("overlap", 0.9, "hide the same"),
        ("mask_sharpness", 0.3, "uniform"),
        ("mask_variation", 0.01, "layout"),
        ("constant_images", 0.2, "contrast"),
        ("encoder_gradient_norm", 0.0, "learns nothing"),
        ("masker_gradient_norm", 0.0, "learns nothing"),
        ("encoder_gradient_rise", 11.0, "explodes"),
        ("masker_gradient_rise", 11.0, "explodes"),
        ("uniformity", None, "not a number"),
        ("feature_spread", float("inf"), "not a number"),
    ],
)
def test_each_unhealthy_metric_is_found_alone_and_has_advice(metric, value, word):
    record = {**_healthy_record(), metric: value}
    (ill,) = [v for v in verdicts(record, 4, 64) if not v.ok]
    assert ill.metric == metric
    assert word in ill.advice


def test_ranges_follow_the_slots_and_are_not_asked_of_one_random_mask():
    (verdict,) = verdicts({"coverage_0_mean": 0.1}, num_masks=6)
    assert verdict.range == pytest.approx((1 / 24, 2.5 / 6))
    health = mask_health(np.zeros((2, 4, 4, 1)))
    asked = {v.metric for v in verdicts(health)}
    assert "overlap" not in asked
    assert "mask_sharpness" not in asked
    assert "dead_slots" in asked
    assert verdicts({"loss": 3.0, "epoch": 1}) == []


def test_ranges_in_words():
    assert range_text(0.3, None) == "≥ 0.3"
    assert range_text(None, -1.0) == "≤ -1"
    assert range_text(0.0625, 0.5, percent=True) == "6.2% – 50%"
    assert range_text(None, None) == "any"


def test_constant_images_and_those_that_are_no_numbers():
    views = np.random.default_rng(0).normal(size=(4, 5, 5, 3))
    views[1] = [0.1, 0.5, 0.9]  # one color, but no gray
    views[3, 2, 2, 0] = np.nan
    assert image_health(views) == {"constant_images": 0.5}
    assert image_health(views[[0, 2]]) == {"constant_images": 0.0}


def test_a_gradient_is_compared_with_its_median_of_ten_epochs():
    norms = [9.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 5.0]  # the first is too old
    earlier = [{"encoder_gradient_norm": norm} for norm in norms]
    now = {"encoder_gradient_norm": 6.0}
    assert gradient_rise(earlier, now) == {"encoder_gradient_rise": 2.0}
    assert gradient_rise(earlier[:2], now) == {}
    assert gradient_rise([{"encoder_gradient_norm": None}] * 5, now) == {}


# ---------------------------------------------------------------------- guards during training


def _masks(kind):
    """Masks [6,8,8,3] with one fault."""
    rng = np.random.default_rng(0)
    logits = 6 * rng.normal(size=(6, 8, 8, 3))
    if kind == "a fixed layout":
        logits = np.repeat(logits[:1], 6, axis=0)
    if kind == "a dead slot":
        logits[..., 2] = -20
    masks = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    if kind == "all slots the same":
        masks = np.repeat(np.round(rng.uniform(size=(6, 8, 8, 1))), 3, axis=-1)
    if kind in ("nothing", "everything"):
        masks = np.full_like(masks, kind == "everything")
    return np.full_like(masks, 1 / 3) if kind == "uniform" else masks


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        ("healthy", set()),
        ("a fixed layout", {"mask_variation"}),
        ("a dead slot", {"dead_slots"}),
        ("all slots the same", {"overlap"}),
        ("uniform", {"overlap", "mask_sharpness", "mask_variation"}),
        ("nothing", {"dead_slots", "mask_sharpness", "mask_variation"}),
        ("everything", {"dead_slots", "overlap", "mask_variation"}),
    ],
)
def test_masks_that_go_wrong_are_named_once_in_the_third_epoch(kind, metrics):
    ill, well = mask_health(_masks(kind)), mask_health(_masks("healthy"))
    told = [alarms([ill] * epochs) for epochs in range(1, 6)]
    assert [len(lines) for lines in told] == [0, 0, len(metrics), 0, 0]
    assert {line.split()[0] for line in told[2]} == metrics
    for line in told[2]:
        assert "\n" not in line
        assert "(healthy " in line
        assert ": " in line.partition(")")[2]
    again = alarms([ill] * 5 + [well] + [ill] * 3)
    assert {line.split()[0] for line in again} == metrics
    assert alarms([ill, ill, well, ill, ill]) == []


def test_a_collapsed_encoder_and_a_gradient_that_explodes_are_named():
    features = np.random.default_rng(0).normal(size=(64, 16)) + 60
    record = feature_health(features, features)
    [line] = alarms([record] * 3)
    assert line.startswith("feature_spread 0.0")
    assert "(healthy ≥ 0.3): features collapse onto one direction: lower" in line
    [line] = alarms([{"masker_gradient_rise": 12.0}])
    assert line.startswith("masker_gradient_rise 12 (healthy ≤ 10): the gradient explodes: lower")
    assert alarms([{"masker_gradient_rise": 3.0}]) == []
