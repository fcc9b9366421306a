"""The training step itself: what it computes, and what it leaves alone."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.objectives import View

_spec = importlib.util.spec_from_file_location(
    "replicas_program", Path(__file__).with_name("replicas_program.py")
)
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)


def model(objective="simclr", masking="adversarial", update="alternating", **settings):
    keras.utils.set_random_seed(1)
    built = program.build(objective, masking, update, "sgd")
    for name, value in settings.items():
        setattr(built.differentiator, name, value)
    return built


def batches(count=1):
    return list(program.data().take(count))


@pytest.mark.parametrize("objective", ["simclr", "byol", "simsiam"])
def test_gradients_by_slot_are_the_gradient_of_the_sum(objective):
    """Clean views encoded once and slots differentiated one by one, against one plain tape."""
    pretrainer = model(objective)
    differentiate, batch = pretrainer.differentiator, batches()[0]
    views = pretrainer.masked_views
    masks = {v: pretrainer.masking.masks(batch[f"view{v}"], None, None) for v in views}
    slots = pretrainer.masking.slots(masks, None)
    seed = tf.constant([0, 0])
    result = differentiate(batch, slots, seed, tf.constant(1.0), encoder=True, masks=True)

    variables = differentiate.trained_variables()
    with tf.GradientTape() as tape:
        tape.watch(slots)
        total, embed = 0.0, pretrainer.objective.embed
        for slot in slots:
            seen = {View(n): embed(batch[f"view{n}"], True, True) for n in (1, 2)}
            for view, mask in slot.items():
                hidden = batch[f"view{view}"] * (1 - mask)[..., None]
                seen[View(view, True)] = embed(hidden, True, True)
            pairs = pretrainer.objective.occluded_pairs(views)
            total += pretrainer.objective.loss(seen, pairs)
    expected, expected_masks = tape.gradient(total, [variables, slots])
    np.testing.assert_allclose(result.distance, total, rtol=1e-5)
    trained = [n for n, gradient in enumerate(expected) if gradient is not None]
    assert len(trained) >= 6
    for n in trained:
        np.testing.assert_allclose(result.encoder[n], expected[n], rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(result.slots, expected_masks, strict=True):
        for view in views:
            np.testing.assert_allclose(ours[view], theirs[view], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_lean_memory_changes_nothing_but_memory(update):
    weights = []
    for lean in (False, True):
        pretrainer = model(update=update, lean_memory=lean)
        pretrainer.fit(program.data(), epochs=1, verbose=0, shuffle=False)
        weights.append([v.numpy() for v in pretrainer.trainable_variables])
    for fast, lean in zip(*weights, strict=True):
        np.testing.assert_allclose(fast, lean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_running_averages_follow_the_clean_view_only(update):
    """BatchNorm moves once per update, by the clean view, whatever is hidden elsewhere."""
    pretrainer = model(update=update)
    batch = batches()[0]
    norm = next(
        layer
        for layer in pretrainer.objective.encoder.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    )
    convolution = pretrainer.objective.encoder.layers[0]
    seen = convolution(batch["view1"]).numpy()  # before the update changes the weights
    pretrainer.train_step(batch)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * seen.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_simultaneous_is_the_alternating_gradient_before_the_encoder_moves():
    """With an encoder that stands still, both rules move the masker alike."""
    maskers = []
    for update in ("alternating", "simultaneous"):
        pretrainer = model(update=update)
        pretrainer.optimizer.learning_rate.assign(0.0)
        pretrainer.fit(program.data(), epochs=1, verbose=0, shuffle=False)
        maskers.append([v.numpy() for v in pretrainer.masking.trained_variables()])
    before = [v.numpy() for v in model().masking.trained_variables()]
    for start, one, other in zip(before, *maskers, strict=True):
        assert np.abs(one - start).max() > 1e-5
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
