"""MixMask's fill and loss: the invariants of its sheet."""

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from adios_tf.masking import Adversarial, Blocks, Mix, UnMix
from adios_tf.masking.fill import Filled
from adios_tf.objectives import OBJECTIVES, Embedding, Pair, View
from adios_tf.registry import construct
from adios_tf.training.pretrainer import Pretrainer

few = hypothesis.settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**16)
ROWS, SIDE, WIDTH = 6, 8, 4
SETTINGS = {"hidden_dim": 6, "output_dim": WIDTH, "predictor_dim": 5, "queue_size": 12}


def images(seed, rows=ROWS):
    return tf.constant(np.random.default_rng(seed).normal(size=(rows, SIDE, SIDE, 3)), tf.float32)


def seed_of(number):
    return tf.constant([number, 5])


def objective(name, **settings):
    """With BatchNorm in inference mode, so that a row does not depend on the others."""
    keras.utils.set_random_seed(3)
    encoder = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Conv2D(5, 3, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    return construct(OBJECTIVES[name], SETTINGS | settings, encoder=encoder)


def embedded(built, views):
    return {
        name: built.embed(view, query=True, key=True, training=False)
        for name, view in views.items()
    }


def loss_of(built, fill, views, mask, seed, slot=0):
    cover = fill.cover(views[View(2)], mask, seed, slot)
    known = embedded(built, {**views, View(2, True): cover.images})
    pairs = [p for p in built.occluded_pairs((2,)) if View(2, True) in p[:2]]
    pairs, known = fill.weigh(pairs, known, {2: mask}, {2: cover})
    return built.loss(known, pairs)


@few
@hypothesis.given(SEEDS, st.integers(1, 7), st.sampled_from(["reversal", "random"]))
def test_the_mixture_shows_both_images(seed, rows, partner):
    x = images(seed, rows)
    mask = Blocks(4, per_image=True).masks(x, None, seed_of(seed))[..., 0]
    mixed, order = Mix(partner).cover(x, mask, seed_of(seed))
    assert sorted(order.numpy()) == list(range(rows))
    hidden = np.broadcast_to(mask[..., None], x.shape) == 1
    np.testing.assert_array_equal(mixed.numpy()[~hidden], x.numpy()[~hidden])
    np.testing.assert_array_equal(mixed.numpy()[hidden], x.numpy()[order][hidden])


def test_partners():
    """The official rule: reversal where there is one mixture, else a random one of its own."""
    draws = {slot: Mix().order(9, seed_of(slot), slot).numpy().tolist() for slot in range(3)}
    assert draws[0] == list(range(9))[::-1]
    assert draws[1] != draws[0] != draws[2] != draws[1]
    assert Mix("random").order(9, seed_of(0), 0).numpy().tolist() != draws[0]


@few
@hypothesis.given(SEEDS)
def test_reversing_twice_is_the_identity(seed):
    x = images(seed)
    order = Mix().order(ROWS, seed_of(seed), 0)
    np.testing.assert_array_equal(tf.gather(tf.gather(x, order), order), x)


@few
@hypothesis.given(SEEDS, st.booleans())
def test_the_visible_share_is_the_realised_one(seed, colors):
    shape = (ROWS, SIDE, SIDE, 3) if colors else (ROWS, SIDE, SIDE)
    mask = np.random.default_rng(seed).uniform(size=shape).astype(np.float32)
    expected = 1 - mask.reshape(ROWS, -1).mean(1)
    np.testing.assert_allclose(Mix().visible_share(tf.constant(mask)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["simclr", "byol", "simsiam", "moco"])
@pytest.mark.parametrize("partner", ["reversal", "random"])
def test_permuting_embeddings_is_encoding_the_permuted_mixtures(name, partner):
    """With a mask per image: the loss equals a slow one that re-orders images, not embeddings."""
    built, x, y = objective(name), images(1), images(2)
    seed = seed_of(4)
    mask = Blocks(4, keep_ratio=0.3, per_image=True).masks(x, None, seed)[..., 0]
    fill = Mix(partner)
    # Shares that differ between the images.
    mask = mask * tf.reshape(tf.linspace(0.2, 1.0, ROWS), (-1, 1, 1))
    ours = loss_of(built, fill, {View(1): y, View(2): x}, mask, seed)

    mixed, order = fill.cover(x, mask, seed)
    back = np.argsort(order)
    shares = 1 - mask.numpy().mean((1, 2))
    pairs = [p for p in built.occluded_pairs((2,)) if View(2, True) in p[:2]]
    expected = 0.0
    for shown, weights in ((mixed, shares), (tf.gather(mixed, back), 1 - shares[back])):
        views = embedded(built, {View(1): y, View(2): x, View(2, True): shown})
        weighed = [p._replace(weight=tf.constant(p.weight * weights, tf.float32)) for p in pairs]
        expected += built.loss(views, weighed)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["simclr", "byol", "simsiam", "moco"])
@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_a_mixture_of_one_image_alone_is_the_clean_loss(name, hidden):
    """lambda = 1: the image itself; lambda = 0: the partner, put back in its place."""
    built, views = objective(name), {View(1): images(1), View(2): images(2)}
    mask = tf.fill((ROWS, SIDE, SIDE), hidden)
    mixed = loss_of(built, Mix("random"), views, mask, seed_of(0))
    pairs = [p for p in built.occluded_pairs((2,)) if View(2, True) in p[:2]]
    known = embedded(built, {**views, View(2, True): views[View(2)]})
    np.testing.assert_allclose(mixed, built.loss(known, pairs), rtol=1e-5)


def test_the_weights_are_those_of_the_image_that_shows():
    """Each clean image gets lambda of its own mixture and 1 - lambda of the one it fills."""
    order = tf.constant([2, 0, 1])
    mask = tf.reshape(tf.constant([0.1, 0.2, 0.3]), (3, 1, 1)) * tf.ones((3, 4, 4))
    views = {View(2, True): Embedding(None, tf.eye(3), None), View(1): Embedding(None, None, None)}
    pairs, known = Mix().weigh(
        [Pair(View(2, True), View(1), 2.0)],
        views,
        {2: mask},
        {2: Filled(None, order)},
    )
    own, back = pairs
    assert (own.query, back.query) == (View(2, True), View(2, True, as_partner=True))
    np.testing.assert_allclose(own.weight, [1.8, 1.6, 1.4], rtol=1e-6)
    # Image 2 fills mixture 0, image 0 fills 1, image 1 fills 2.
    np.testing.assert_allclose(back.weight, [0.4, 0.6, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(known[View(2, True, as_partner=True)].query, np.eye(3)[[1, 2, 0]])


def test_pairs_without_a_mixture_and_of_two_stay():
    mask = tf.fill((3, 4, 4), 0.25)
    rows = Embedding(None, tf.eye(3), tf.eye(3))
    views = dict.fromkeys((View(1, True), View(2, True), View(1)), rows)
    filled = {view: Filled(None, tf.constant([2, 1, 0])) for view in (1, 2)}
    pairs = [Pair(View(1), View(1)), Pair(View(1, True), View(2, True), 0.5)]
    kept, _ = Mix().weigh(pairs, views, {1: mask, 2: mask}, filled)
    assert [tuple(p) for p in kept] == [tuple(p) for p in pairs]


def test_no_gradient_flows_through_the_share():
    mask = tf.fill((3, 4, 4), 0.25)
    with tf.GradientTape() as tape:
        tape.watch(mask)
        share = Mix().visible_share(mask)
    assert tape.gradient(share, mask) is None


def trainer(name, masking, **settings):
    model = Pretrainer(objective(name), masking, fill="mix", **settings)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return model


@pytest.mark.parametrize("name", ["simclr", "byol", "simsiam", "moco"])
@pytest.mark.parametrize("clean_weight", [None, 0.0, 0.5])
def test_the_clean_term_is_one_of_its_own(name, clean_weight):
    """Weight 1 by default, any other by flag, and once: not again in each slot."""
    model = trainer(name, Blocks(4), clean_weight=clean_weight)
    views = {"view1": images(1), "view2": images(2)}
    distance = float(model.train_step(views)["distance"])
    model.step.assign(0)
    without = trainer(name, Blocks(4), clean_weight=0.0)
    if name == "simsiam":
        without.differentiator.occluded_pairs = model.differentiator.occluded_pairs
        if clean_weight == 0:
            return
    mixed = float(without.train_step(views)["distance"])
    plain = trainer(name, UnMix(), clean_weight=1.0)
    plain.differentiator.occluded_pairs = ()
    clean = float(plain.train_step(views)["distance"])
    weight = 1.0 if clean_weight is None else clean_weight
    assert distance == pytest.approx(mixed + weight * clean, rel=1e-4)


def test_learned_masks_take_it_too():
    built = objective("simclr")
    masker = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Conv2D(2, 1)])
    model = Pretrainer(built, Adversarial(masker), fill="mix")
    model.compile(keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1), run_eagerly=True)
    before = [v.numpy() for v in masker.trainable_variables]
    results = model.train_step({"view1": images(1), "view2": images(2)})
    assert all(np.isfinite(float(v)) for v in results.values())
    assert any(
        (a != b.numpy()).any() for a, b in zip(before, masker.trainable_variables, strict=True)
    )
