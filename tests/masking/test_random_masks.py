"""Invariants of the masks that nobody learns: grid, patches, rectangles, MSCN, Un-Mix."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import stats

from adios_tf.errors import UserError
from adios_tf.masking import MASKINGS, MSCN, Blocks, Cells, Patches, Rectangles, UnMix, UnMixBlocks
from adios_tf.masking.grid import choose, upsample
from adios_tf.masking.unmix import boxes, symmetric_beta

few = hypothesis.settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 2**30)
RANDOM = {
    "blocks": Blocks,
    "cells": Cells,
    "patches": Patches,
    "rectangles": Rectangles,
    "mscn": MSCN,
    "unmix": UnMix,
    "unmix_blocks": UnMixBlocks,
}


def masks(masking, seed=0, rows=4, side=32, height=None):
    images = tf.zeros((rows, height or side, side, 3))
    return masking.masks(images, None, tf.constant([seed, 7])).numpy()


@pytest.mark.parametrize("name", RANDOM)
@few
@hypothesis.given(seed=SEEDS)
def test_every_random_mask(name, seed):
    """In [0,1], of the promised shape, and a function of the seed alone."""
    masking = RANDOM[name]()
    assert isinstance(masking, MASKINGS[name])
    drawn = masks(masking, seed, rows=3, side=32, height=48)
    sheets = 3 if name == "mscn" else masking.num_masks
    assert drawn.shape == (3, 48, 32, sheets)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    np.testing.assert_array_equal(drawn, masks(masking, seed, rows=3, side=32, height=48))
    if not name.startswith("unmix"):
        assert set(np.unique(drawn)) <= {0.0, 1.0}
        assert 0 < drawn.mean() < 1
    assert masking.masked_views == (2,)
    assert not masking.trained_variables()
    slots = masking.slots({"view2": tf.constant(drawn)}, tf.constant([0, 0]))
    assert len(slots) == masking.num_masks


@pytest.mark.parametrize("name", RANDOM)
def test_another_seed_gives_another_mask(name):
    drawn = [masks(RANDOM[name](), seed).tobytes() for seed in range(8)]
    assert len(set(drawn)) > 5


@few
@hypothesis.given(SEEDS, st.integers(2, 9), st.floats(0.05, 0.95))
def test_blocks_keep_exactly_their_share(seed, grid, keep):
    """On the smallest grids too, where the official generator gives empty masks."""
    kept = int(keep * grid**2 + 1e-6)
    hypothesis.assume(0 < kept < grid**2)
    hidden = masks(Blocks(grid, keep, per_image=True), seed, side=4 * grid)[..., 0]
    coarse = hidden[:, ::4, ::4]
    np.testing.assert_array_equal(np.kron(coarse, np.ones((4, 4))), hidden)
    np.testing.assert_array_equal((1 - coarse).sum((1, 2)), kept)


@few
@hypothesis.given(SEEDS, st.sampled_from([2, 4]), st.floats(0.05, 0.95))
def test_cells_are_never_all_or_none(seed, grid, keep):
    hidden = masks(Cells(grid, keep, per_image=True), seed, rows=50)
    assert (hidden.min((1, 2, 3)) == 0).all()
    assert (hidden.max((1, 2, 3)) == 1).all()


@pytest.mark.parametrize("masking", [Blocks, Cells, UnMix, UnMixBlocks])
def test_one_mask_for_the_batch_or_one_per_image(masking):
    shared = masks(masking(), seed=3, rows=6)
    np.testing.assert_array_equal(shared, np.broadcast_to(shared[:1], shared.shape))
    own = masks(masking(per_image=True), seed=3, rows=6)
    assert len({mask.tobytes() for mask in own}) == 6


@few
@hypothesis.given(SEEDS, st.integers(1, 17), st.floats(0.1, 0.9), st.integers(16, 40))
def test_patches_keep_their_share_rounded_down(seed, patch, keep, side):
    number = (-(-side // patch)) ** 2
    kept = int(keep * number + 1e-6)
    hypothesis.assume(0 < kept < number)
    hidden = masks(Patches(patch, keep), seed, side=side)[..., 0]
    coarse = hidden[:, ::patch, ::patch]
    whole = np.kron(coarse, np.ones((patch, patch)))[:, :side, :side]
    np.testing.assert_array_equal(whole, hidden)
    np.testing.assert_array_equal((1 - coarse).sum((1, 2)), kept)


@few
@hypothesis.given(SEEDS, st.floats(0.1, 0.9), st.integers(16, 48))
def test_rectangles_hide_at_least_what_is_asked_for(seed, keep, side):
    hidden = masks(Rectangles(keep), seed, side=side)
    assert (hidden.mean((1, 2, 3)) >= 1 - keep - 1e-6).all()


def test_mscn_focal_masks_leave_one_window():
    drawn = masks(MSCN(focal_prob=1.0, focal_side=0.5), rows=20)
    np.testing.assert_array_equal(drawn[..., :1], drawn[..., 1:2])
    visible = 1 - drawn[..., 0]
    assert (visible.sum((1, 2)) == 16 * 16).all()
    assert (visible.max(1).sum(1) == 16).all()
    assert (visible.max(2).sum(1) == 16).all()


@pytest.mark.parametrize("per_color", [0.0, 1.0])
def test_mscn_grid_masks_keep_a_share_between_the_bounds(per_color):
    masking = MSCN(
        grid_size=8, keep_least=0.5, keep_most=0.75, focal_prob=0, channel_prob=per_color
    )
    drawn = masks(masking, rows=200)
    share = 1 - drawn.mean((1, 2))
    assert share.min() >= 0.5
    assert share.max() <= 0.75
    assert share.min() < 0.55
    assert share.max() > 0.7
    np.testing.assert_array_equal(share, np.broadcast_to(share[:, :1], share.shape))
    alike = (drawn[..., 0] == drawn[..., 1]).all((1, 2))
    assert alike.mean() == (0 if per_color else 1)


def test_mscn_mixes_its_kinds():
    drawn = masks(MSCN(), rows=2000)
    focal = (drawn.mean((1, 2)).max(1) < 0.21) & (drawn[:, 16, 16].max(1) == 0)
    per_color = (drawn[..., 0] != drawn[..., 1]).any((1, 2))
    assert per_color.mean() == pytest.approx(0.8 * 0.7, abs=0.05)
    assert focal.mean() > 0.15


@pytest.mark.parametrize("beta", [0.2, 1.0, 4.0])
def test_symmetric_beta(beta):
    uniform = tf.constant((np.arange(500) + 0.5) / 500, tf.float32)
    ours = symmetric_beta(uniform, beta).numpy()
    np.testing.assert_allclose(ours, stats.beta(beta, beta).ppf(uniform), atol=2e-4)


@few
@hypothesis.given(SEEDS)
def test_boxes_are_boxes_of_about_their_share(seed):
    draw = np.random.default_rng(seed)
    share = draw.uniform(0, 1, 16).astype(np.float32)
    box = boxes(tf.constant(share), tf.constant(draw.uniform(size=(16, 2)), tf.float32), 40, 24)
    box = box.numpy().astype(float)
    outline = box.max(2, keepdims=True) * box.max(1, keepdims=True)
    np.testing.assert_array_equal(box, outline)
    assert (box.mean((1, 2)) <= share + 1e-6).all()
    centered = boxes(tf.constant(share), tf.fill((16, 2), 0.5), 400, 400).numpy()
    np.testing.assert_allclose(centered.mean((1, 2)), share, atol=0.01)


def test_un_mix_blends_or_pastes():
    blended = masks(UnMix(unmix_prob=1.0, per_image=True), rows=8)
    assert (blended.std((1, 2, 3)) < 1e-6).all()
    assert len(np.unique(blended)) == 8
    pasted = masks(UnMix(unmix_prob=0.0, per_image=True), rows=8)
    assert set(np.unique(pasted)) <= {0.0, 1.0}


def test_both_mixtures():
    drawn = masks(UnMixBlocks(grid_size=4), rows=2)
    assert drawn.shape[-1] == UnMixBlocks.num_masks == 2
    assert drawn[..., 1].mean() == 0.5


@pytest.mark.parametrize(("side", "cells"), [(36, 4), (50, 4), (7, 7), (9, 2)])
def test_upsampling_cuts_hard(side, cells):
    grid = np.random.default_rng(0).integers(0, 2, size=(2, cells, cells))
    index = np.floor(np.arange(side) * cells / side).astype(int)
    np.testing.assert_array_equal(
        upsample(tf.constant(grid), side, side), grid[:, index][:, :, index]
    )


@few
@hypothesis.given(SEEDS, st.integers(1, 12), st.integers(0, 12))
def test_choose_takes_the_smallest(seed, cells, number):
    noise = np.random.default_rng(seed).uniform(size=(3, cells))
    taken = choose(tf.constant(noise), number).numpy()
    assert (taken.sum(1) == min(number, cells)).all()
    for row, chosen in zip(noise, taken, strict=True):
        if 0 < chosen.sum() < cells:
            assert row[chosen].max() < row[~chosen].min()


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: Blocks(1), "at least 2 cells"),
        (lambda: Blocks(4, 0.0), "between 0 and 1"),
        (lambda: Blocks(4, 0.01), "leaves 0 of 16 cells visible"),
        (lambda: Cells(4, 1.0), "between 0 and 1"),
        (lambda: Patches(0), "at least 1 pixel"),
        (lambda: masks(Patches(32)), "leaves 0 of 1 cells visible"),
        (lambda: masks(Blocks(33), side=32), "finer than an image of 32"),
        (lambda: MSCN(keep_least=0.9, keep_most=0.8), "must not exceed"),
        (lambda: UnMix(unmix_beta=0.0), "above 0"),
    ],
)
def test_refused_with_advice(make, advice):
    with pytest.raises(UserError, match=advice):
        make()
