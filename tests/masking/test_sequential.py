"""Sequential adversarial masking: the invariants of its sheet."""

import functools

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from adios_tf.errors import UserError
from adios_tf.masking import SequentialMasking, SequentialOne
from adios_tf.masking.budgets import KINDS, project
from adios_tf.masking.sequential import COMBINATIONS
from adios_tf.objectives import SimCLR
from adios_tf.training.pretrainer import Pretrainer

few = hypothesis.settings(max_examples=15, deadline=None)
ROWS, SIDE = 3, 12


@functools.lru_cache
def built(seed, gain):
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 4)),
            keras.layers.Conv2D(6, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(1, 1),
        ]
    )
    return net, [v.numpy() * (gain if v.shape[-1] == 1 else 1) for v in net.weights]


def masker(seed=0, gain=5.0):
    """Two convolutions with logits far enough apart to make masks of some contrast."""
    net, weights = built(seed, gain)
    net.set_weights(weights)
    return net


def images(seed=0, rows=ROWS):
    return tf.constant(np.random.default_rng(seed).normal(size=(rows, SIDE, SIDE, 3)), tf.float32)


def masks_of(masking, x):
    return masking.masks(x, None, tf.constant([0, 0]))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    combination=st.sampled_from(COMBINATIONS),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 5),
    number=st.integers(1, 5),
    share=st.floats(0.05, 0.19),
)
def test_masks_of_every_kind(combination, kind, seed, number, share):
    hypothesis.assume(combination != "closed" or number > 1)
    masking = SequentialMasking(
        masker(seed), number, (share,), budget_kind=kind, combination=combination
    )
    drawn = masks_of(masking, images(seed)).numpy()
    assert drawn.shape == (ROWS, SIDE, SIDE, number)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    total = drawn.sum(-1)
    if combination == "stick_breaking":
        assert total.max() <= 1 + 1e-5
    if combination == "closed":
        np.testing.assert_allclose(total, 1, atol=1e-5)
    if combination == "nested":
        assert np.diff(drawn, axis=-1).min(initial=0) >= -1e-6
    hidden = masking.hidden_by_step(tf.constant(drawn)).numpy()
    budgeted = hidden[:, : number - (combination == "closed")]
    if kind == "projection":
        np.testing.assert_allclose(budgeted, share, atol=1e-3)
    if kind == "topk":
        np.testing.assert_allclose(budgeted, int(share * SIDE**2) / SIDE**2, atol=1e-6)


@few
@hypothesis.given(st.integers(0, 5), st.sampled_from(["stick_breaking", "nested"]))
def test_the_masks_and_what_is_left_sum_to_one(seed, combination):
    """Followed step by step, with what the recursion calls free."""
    masking = SequentialMasking(masker(seed), 4, (0.1, 0.3, 0.2, 0.05), combination=combination)
    x, recursion = images(seed), masking.recursion
    free, parts = tf.ones((ROWS, SIDE, SIDE)), []
    for step in range(4):
        gate = recursion.gate(recursion.logits(x, free, step), free, step)
        parts.append(free * gate)
        free = free * (1 - gate)
        np.testing.assert_allclose(tf.add_n(parts) + free, 1, atol=1e-5)
    drawn = masks_of(masking, x)
    expected = tf.stack(parts, -1)
    if combination == "nested":
        expected = tf.cumsum(expected, -1)
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    np.testing.assert_allclose(
        masking.hidden_by_step(drawn), [[0.1, 0.3, 0.2, 0.05]] * ROWS, atol=1e-3
    )


def test_overlapping_masks_may_hide_the_same_twice():
    blind = forget_history(masker())
    drawn = masks_of(SequentialMasking(blind, 3, combination="overlap"), images()).numpy()
    np.testing.assert_allclose(drawn[..., 1], drawn[..., 0], atol=1e-6)


def forget_history(net):
    kernel = net.layers[0].kernel.numpy()
    kernel[:, :, 3] = 0
    net.layers[0].kernel.assign(kernel)
    return net


def test_the_history_is_read():
    """Changing it changes the logits, unless its weights are zero: then no step differs."""
    x, some = images(), tf.fill((ROWS, SIDE, SIDE), 0.4)
    for change, differs in ((lambda net: net, True), (forget_history, False)):
        recursion = SequentialMasking(change(masker()), 3).recursion
        first = recursion.logits(x, tf.ones_like(some), 0)
        second = recursion.logits(x, some, 1)
        assert bool((np.abs(first - second) > 1e-4).any()) == differs


def test_the_masked_history_shows_only_what_is_free():
    recursion = SequentialMasking(masker(), 2, history="masked").recursion
    free = np.ones((ROWS, SIDE, SIDE), np.float32)
    free[:, :6] = 0
    x = images().numpy()
    other = x.copy()
    other[:, :6] += 3
    same = recursion.logits(tf.constant(x), tf.constant(free), 1)
    np.testing.assert_array_equal(same, recursion.logits(tf.constant(other), tf.constant(free), 1))


def test_one_mask_is_a_single_budgeted_one():
    net, x = masker(), images()
    drawn = masks_of(SequentialMasking(net, 1, (0.3,)), x)[..., 0]
    logits = net(tf.concat([x, tf.zeros((ROWS, SIDE, SIDE, 1))], -1))[..., 0]
    np.testing.assert_allclose(drawn, project(logits, tf.ones_like(logits), 0.3), atol=1e-6)


@pytest.mark.parametrize("through", [False, True])
def test_gradient_through_the_history(through):
    """Off by default in the channel, never in the product."""
    recursion = SequentialMasking(masker(), 2, history_gradient=through).recursion
    free, x = tf.fill((ROWS, SIDE, SIDE), 0.5), images()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(free)
        logits = tf.reduce_sum(recursion.logits(x, free, 1) ** 2)
        hidden = tf.reduce_sum(free * recursion.gate(recursion.logits(x, free, 1), free, 1) ** 2)
    assert (tape.gradient(logits, free) is not None) == through
    assert tape.gradient(hidden, free) is not None


def test_a_step_embedding_starts_without_effect_and_learns():
    net, x = masker(), images()
    plain, embedded = SequentialMasking(net, 3), SequentialMasking(net, 3, step_embedding=True)
    np.testing.assert_array_equal(masks_of(plain, x), masks_of(embedded, x))
    assert len(embedded.trained_variables()) == len(plain.trained_variables()) + 1
    steps = embedded.recursion.steps
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(
            masks_of(embedded, x) * tf.random.stateless_normal(x[..., :1].shape, (1, 2))
        )
    gradient = tape.gradient(value, steps)
    assert (np.abs(gradient) > 0).any(axis=1).all()
    steps.assign(np.eye(3, 4) * 3)
    assert np.abs(masks_of(plain, x) - masks_of(embedded, x)).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "expected"), [("projection", 0.0), ("topk", 0.0), ("at_most", 1), ("near", 1)]
)
def test_penalties(kind, expected):
    masking = SequentialMasking(masker(), 2, (0.1, 0.3), budget_kind=kind, budget_weight=10.0)
    stack = np.zeros((1, 10, 10, 2), np.float32)
    stack[0, :3, :, 0] = 1
    stack[0, 3:4, :, 1] = 1
    price = float(masking.penalty({"view2": tf.constant(stack)}))
    over, under = 10 * 0.2**2, 10 * 0.2**2
    wanted = {"at_most": over, "near": over + under}.get(kind, 0.0)
    assert price == pytest.approx(wanted, abs=1e-6)
    assert bool(price) == bool(expected)


def test_a_nested_penalty_counts_what_each_step_adds():
    masking = SequentialMasking(masker(), 2, (0.2, 0.2), budget_kind="near", combination="nested")
    stack = np.zeros((1, 10, 10, 2), np.float32)
    stack[0, :2, :, 0] = 1
    stack[0, :4, :, 1] = 1
    assert float(masking.penalty({"view2": tf.constant(stack)})) == pytest.approx(0, abs=1e-9)


def test_the_sparsity_penalty_is_that_of_adios():
    masking = SequentialMasking(masker(), 2, budget_kind="sparsity", sparsity_weight=0.5)
    stack = tf.fill((1, 4, 4, 2), 0.5)
    assert float(masking.penalty({"view1": stack, "view2": stack})) == pytest.approx(0.5 * 4)


def test_one_mask_per_image():
    masking = SequentialOne(masker(), 3)
    x = images(rows=64)
    drawn = masks_of(masking, x)
    (slot,) = masking.slots({"view1": drawn, "view2": drawn}, tf.constant([1, 2]))
    np.testing.assert_array_equal(slot["view1"], slot["view2"])
    distance = np.abs(drawn - slot["view2"][..., None]).max((1, 2))
    chosen = distance.argmin(1)
    assert distance.min(1).max() == 0
    assert set(chosen) == {0, 1, 2}
    (other,) = masking.slots({"view2": drawn}, tf.constant([5, 2]))
    assert (other["view2"] != slot["view2"]).numpy().any()


def test_the_saved_masker_is_the_trained_one(tmp_path):
    masking = SequentialMasking(
        masker(), 3, (0.1, 0.2, 0.3), combination="nested", step_embedding=True
    )
    masking.recursion.steps.assign(np.eye(3, 4))
    model = masking.inference_model(SIDE)
    model.save(tmp_path / "masker.keras")
    again = keras.models.load_model(tmp_path / "masker.keras")
    assert again.output_shape == (None, SIDE, SIDE, 3)
    np.testing.assert_allclose(again(images()), masks_of(masking, images()), atol=1e-6)


@pytest.mark.parametrize("kind", ["projection", "topk"])
def test_the_budget_holds_after_a_hundred_updates(kind):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    budget = (0.1, 0.25, 0.4)
    net = masker()
    masking = SequentialMasking(net, 3, budget, budget_kind=kind)
    model = Pretrainer(SimCLR(encoder, hidden_dim=8, output_dim=4), masking)
    model.compile(keras.optimizers.SGD(0.05), keras.optimizers.SGD(2.0))
    draw = np.random.default_rng(0)
    views = draw.normal(size=(2, 800, SIDE, SIDE, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices({"view1": views[0], "view2": views[1]}).batch(8)
    before = [v.numpy() for v in net.trainable_variables]
    model.fit(data, verbose=0, shuffle=False)
    assert int(model.step) == 100
    moved = max(np.abs(a - b).max() for a, b in zip(before, net.trainable_variables, strict=True))
    assert moved > 0.05
    drawn = masks_of(masking, tf.constant(views[1, :64]))
    # A share of whole pixels is what topk can do on 12 x 12 of them.
    off = 1e-3 if kind == "projection" else 1 / SIDE**2
    np.testing.assert_allclose(masking.hidden_by_step(drawn), [budget] * 64, atol=off)
    assert tf.reduce_max(tf.reduce_sum(drawn, -1)) <= 1 + 1e-5


def test_distances_are_averaged():
    assert SequentialMasking(masker(), 2).slot_reduction == "mean"


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"budget": (0.5,)}, "more than the whole image"),
        ({"budget": (0.1, 0.2)}, "give one, or one each"),
        ({"budget_kind": "project"}, "projection, sparsity, topk"),
        ({"combination": "k1"}, "stick_breaking"),
        ({"history": "none"}, "image, masked"),
        ({"gate_temperature": 0.0}, "above 0"),
        ({"num_masks": 1, "combination": "closed"}, "at least 2"),
    ],
)
def test_refused_with_advice(settings, advice):
    with pytest.raises(UserError, match=advice):
        SequentialMasking(masker(), **{"num_masks": 3, **settings})


def test_a_masker_of_the_wrong_shape_is_refused():
    net = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Conv2D(1, 1)])
    with pytest.raises(UserError, match="reads 4 channels and gives 1"):
        SequentialMasking(net)
