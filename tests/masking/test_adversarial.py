"""ADIOS's masks, their price, and the draw of one per image."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from adios_tf.errors import UserError
from adios_tf.masking import Adversarial, AdversarialOne, NoMasking
from adios_tf.masking.penalties import SPARSITY_EDGE, coverage, entropy, sparsity

few = hypothesis.settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 2**16)
SIDE = 8


def masker(number):
    return keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), keras.layers.Conv2D(number, 3, padding="same")]
    )


MASKERS = {number: masker(number) for number in (2, 3, 6)}


def images(seed, rows=4):
    return tf.constant(np.random.default_rng(seed).normal(size=(rows, SIDE, SIDE, 3)), tf.float32)


def areas(seed, rows=5, number=4):
    draw = np.random.default_rng(seed).dirichlet(np.full(number, 0.4), size=rows)
    return tf.constant(draw, tf.float32)


@few
@hypothesis.given(SEEDS, st.sampled_from(sorted(MASKERS)))
def test_the_slots_share_every_pixel(seed, number):
    masking = Adversarial(MASKERS[number])
    stack = masking.masks(100 * images(seed), None, None)
    assert stack.shape == (4, SIDE, SIDE, number)
    assert tf.reduce_min(stack) >= 0
    np.testing.assert_allclose(tf.reduce_sum(stack, -1), 1, atol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(coverage(stack), -1), 1, atol=1e-5)
    slots = masking.slots({"view2": stack}, None)
    assert len(slots) == masking.num_masks == number
    np.testing.assert_array_equal(tf.stack([slot["view2"] for slot in slots], -1), stack)
    again = masking.inference_model(SIDE)(100 * images(seed))
    np.testing.assert_allclose(again, stack, atol=1e-6)


@few
@hypothesis.given(SEEDS, st.integers(1, 40), st.sampled_from(sorted(MASKERS)))
def test_one_slot_per_image_of_any_batch(seed, rows, number):
    """The official code fails where the batch is not the configured one."""
    masking = AdversarialOne(MASKERS[number])
    stack = masking.masks(images(seed, rows), None, None)
    (slot,) = masking.slots({"view1": stack, "view2": stack}, tf.constant([seed, 1]))
    np.testing.assert_array_equal(slot["view1"], slot["view2"])
    matches = np.abs(stack - slot["view2"][..., None]).max((1, 2)) == 0
    assert matches.any(1).all()


def test_all_slots_are_drawn_alike_and_anew():
    masking = AdversarialOne(MASKERS[3])
    drawn = masking.draw_slots(6000, tf.constant([3, 4])).numpy()
    shares = np.bincount(drawn, minlength=3) / 6000
    # Three standard errors and a half.
    np.testing.assert_allclose(shares, 1 / 3, atol=3.5 * np.sqrt(2 / 9 / 6000))
    again = masking.draw_slots(6000, tf.constant([3, 5])).numpy()
    assert (drawn == again).mean() < 0.4


@few
@hypothesis.given(SEEDS)
def test_the_sparsity_penalty_is_the_formula_away_from_the_ends(seed):
    s = np.clip(areas(seed).numpy(), 0.01, 0.99)
    expected = (1 / np.sin(np.pi * s.astype(float))).mean(0).sum()
    np.testing.assert_allclose(sparsity(tf.constant(s)), expected, rtol=1e-5)


def test_the_sparsity_penalty_never_rewards():
    """Finite, at least 1 per slot, and steeper towards either end, the ends included."""
    ends = np.linspace(0, 2 * SPARSITY_EDGE, 41)
    line = np.concatenate([ends, np.linspace(0.01, 0.5, 40)]).astype(np.float32)
    for s in (line, 1 - line):
        s = tf.constant(s[:, None])
        with tf.GradientTape() as tape:
            tape.watch(s)
            each = tf.stack([sparsity(row[None]) for row in tf.unstack(s)])
        values, slopes = each.numpy(), tape.gradient(each, s).numpy()
        assert np.isfinite(values).all()
        assert (values >= 1 - 1e-5).all()
        assert (np.diff(values) <= 1e-4 * values[:-1]).all()
        outside = np.minimum(s, 1 - s).ravel() < SPARSITY_EDGE
        assert np.abs(slopes.ravel()[outside]).min() > 1e5


@pytest.mark.parametrize(("number", "least"), [(2, 2.0), (4, 5.657), (6, 12.0), (8, 20.91)])
def test_the_sparsity_penalty_of_equal_slots(number, least):
    value = float(sparsity(tf.fill((3, number), 1 / number)))
    assert value == pytest.approx(least, rel=1e-3)
    assert float(sparsity(areas(0, number=number))) > value


@few
@hypothesis.given(SEEDS, st.integers(2, 8))
def test_entropy_is_largest_for_equal_slots(seed, number):
    for of in ("coverage", "softmax"):
        value = float(entropy(areas(seed, number=number), of))
        assert -1e-6 <= value <= np.log(number) + 1e-6
        equal = float(entropy(tf.fill((2, number), 1 / number), of))
        assert equal == pytest.approx(np.log(number), abs=1e-5)


@few
@hypothesis.given(SEEDS, st.floats(0, 2), st.floats(-2, 2))
def test_what_the_masker_pays(seed, alpha, beta):
    stacks = {
        view: tf.nn.softmax(images(seed + n) * 2, axis=-1)
        for n, view in enumerate(("view1", "view2"))
    }
    masking = Adversarial(MASKERS[3], sparsity_weight=alpha, entropy_weight=beta)
    expected = sum(
        alpha * float(sparsity(coverage(stack))) - beta * float(entropy(coverage(stack)))
        for stack in stacks.values()
    )
    np.testing.assert_allclose(masking.penalty(stacks), expected, rtol=1e-4, atol=1e-5)


def test_the_joint_entropy_spans_both_views():
    stacks = {view: tf.fill((2, 4, 4, 3), 1 / 3) for view in ("view1", "view2")}
    each = Adversarial(MASKERS[3], 0.0, 1.0, "softmax").penalty(stacks)
    joint = Adversarial(MASKERS[3], 0.0, 1.0, "softmax_joint").penalty(stacks)
    np.testing.assert_allclose(each, -2 * np.log(3), rtol=1e-5)
    np.testing.assert_allclose(joint, -np.log(6), rtol=1e-5)


def test_refused_with_advice():
    with pytest.raises(UserError, match="take at least 2"):
        Adversarial(masker(1))
    with pytest.raises(UserError, match="coverage, softmax"):
        Adversarial(MASKERS[2], entropy_kind="shannon")


def test_nothing_is_hidden_without_a_masking():
    masking = NoMasking()
    assert masking.num_masks == 0
    assert masking.clean_weight == 1
    assert masking.slots({}, None) == []
    assert masking.inference_model(SIDE) is None
    assert float(masking.penalty({})) == 0
