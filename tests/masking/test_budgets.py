"""What a budget promises: the share, and where the gradient may go."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from adios_tf.errors import UserError
from adios_tf.masking.budgets import as_list, excess, project, sigmoid_gate, top_share

few = hypothesis.settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**16)
SHARES = st.floats(0.05, 0.9)
SCALES = st.sampled_from([0.0, 0.3, 3.0, 10.0, 60.0])
ROWS, SIDE = 3, 16


def logits_of(seed, scale, side=SIDE):
    draw = np.random.default_rng(seed).normal(size=(ROWS, side, side))
    return tf.constant(scale * draw, tf.float32)


def free_of(seed):
    """What may be left after other steps: soft, and in places nothing."""
    draw = np.random.default_rng(seed + 1).uniform(-0.3, 1.2, size=(ROWS, SIDE, SIDE))
    return tf.constant(np.clip(draw, 0, 1), tf.float32)


def shares(gate, free):
    return tf.reduce_mean(gate * free, (1, 2)).numpy()


@few
@hypothesis.given(SEEDS, SCALES, SHARES, st.sampled_from([0.5, 1.0, 2.0]))
def test_projection_hides_the_budget(seed, scale, budget, temperature):
    free = free_of(seed)
    gate = project(logits_of(seed, scale), free, budget, temperature)
    room = free.numpy().mean((1, 2))
    np.testing.assert_allclose(shares(gate, free), np.minimum(budget, 0.999 * room), atol=1e-3)
    assert gate.numpy().min() >= 0
    assert gate.numpy().max() <= 1


@few
@hypothesis.given(SEEDS, SHARES, st.floats(-20, 20))
def test_projection_ignores_a_constant(seed, budget, constant):
    logits, free = logits_of(seed, 2.0), free_of(seed)
    moved = project(logits + constant, free, budget)
    np.testing.assert_allclose(moved, project(logits, free, budget), atol=1e-4)


@few
@hypothesis.given(SEEDS, st.floats(0.05, 0.5))
def test_projection_lets_the_adversary_move_mass_only(seed, budget):
    """The gradient of the total coverage vanishes; that of another function does not."""
    logits, free = logits_of(seed, 2.0), free_of(seed)
    other = logits_of(seed + 2, 1.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        gate = project(logits, free, budget)
        total = tf.reduce_mean(gate * free)
        value = tf.reduce_mean(gate * free * other)
    of_total = np.abs(tape.gradient(total, logits)).max()
    of_value = np.abs(tape.gradient(value, logits)).max()
    assert of_value > 1e-6
    assert of_total < 1e-3 * of_value


def test_the_gradient_of_a_projection_is_that_of_finite_differences():
    logits = tf.cast(logits_of(0, 1.0, 4), tf.float64)
    free = tf.ones_like(logits)
    other = tf.cast(logits_of(1, 1.0, 4), tf.float64)

    def value(x):
        return tf.reduce_sum(project(x, free, 0.3) * other)

    with tf.GradientTape() as tape:
        tape.watch(logits)
        result = value(logits)
    gradient = tape.gradient(result, logits)
    for place in ((0, 1, 2), (1, 0, 0), (2, 3, 3)):
        step = np.zeros(logits.shape)
        step[place] = 1e-4
        slope = (value(logits + step) - value(logits - step)) / 2e-4
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-4, atol=1e-7)


@few
@hypothesis.given(SEEDS, SHARES, st.sampled_from([1, 2, 4]))
def test_top_share_is_the_largest_free_logits(seed, budget, cell):
    logits = logits_of(seed, 3.0)
    taken_before = np.random.default_rng(seed).uniform(size=(ROWS, 4, 4)) < 0.4
    taken_before = np.kron(taken_before, np.ones((4, 4)))
    free = tf.constant(1 - taken_before, tf.float32)
    number = int(budget * (SIDE // cell) ** 2 + 1e-6)
    hypothesis.assume(number)
    gate = top_share(logits, free, budget, cell=cell).numpy()
    assert set(np.unique(gate)) <= {0.0, 1.0}
    assert (gate * taken_before == 0).all()
    coarse = gate[:, ::cell, ::cell]
    np.testing.assert_array_equal(np.kron(coarse, np.ones((cell, cell))), gate)
    open_cells = free.numpy()[:, ::cell, ::cell].sum((1, 2))
    np.testing.assert_array_equal(coarse.sum((1, 2)), np.minimum(number, open_cells))
    pooled = logits.numpy().reshape(ROWS, SIDE // cell, cell, SIDE // cell, cell).mean((2, 4))
    for score, chosen, allowed in zip(
        pooled, coarse > 0, free.numpy()[:, ::cell, ::cell], strict=True
    ):
        left = (allowed > 0) & ~chosen
        if left.any() and chosen.any():
            assert score[chosen].min() >= score[left].max()


def test_top_share_passes_the_gradient_of_the_sigmoid():
    logits = logits_of(0, 1.0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        hard = tf.reduce_sum(top_share(logits, tf.ones_like(logits), 0.2))
        soft = tf.reduce_sum(sigmoid_gate(logits, 1.0))
    np.testing.assert_allclose(tape.gradient(hard, logits), tape.gradient(soft, logits), atol=1e-6)


def test_a_gate_never_saturates():
    gate = sigmoid_gate(tf.constant([-1e9, 1e9]), 1.0)
    assert 0 < gate[0] < 1e-6
    assert 1 - 1e-6 < gate[1] < 1


def test_excess():
    coverages = tf.constant([[0.1, 0.5], [0.3, 0.3]])
    assert float(excess(coverages, (0.2, 0.4), False)) == pytest.approx((0.01 + 0.01) / 2)
    both = (0.01 + 0.01 + 0.01 + 0.01) / 2
    assert float(excess(coverages, (0.2, 0.4), True)) == pytest.approx(both)


def test_lists_of_budgets():
    assert as_list((0.2,), 3) == (0.2, 0.2, 0.2)
    assert as_list((0.1, 0.2), 2) == (0.1, 0.2)
    for budget, steps, advice in (
        ((0.1, 0.2), 3, "give one, or one each"),
        ((), 2, "names 0 shares"),
        ((0.0,), 2, "between 0 and 1"),
        ((1.0,), 2, "between 0 and 1"),
    ):
        with pytest.raises(UserError, match=advice):
            as_list(budget, steps)


def test_cells_that_do_not_fit():
    logits = logits_of(0, 1.0)
    for cell, budget, advice in ((5, 0.2, "does not divide"), (8, 0.2, "less than one cell")):
        with pytest.raises(UserError, match=advice):
            top_share(logits, tf.ones_like(logits), budget, cell=cell)
