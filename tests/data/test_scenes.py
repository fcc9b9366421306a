"""The scenes of the embedded data set: repeatable, balanced, and not to be guessed."""

import colorsys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from adios_tf.data import scenes
from adios_tf.data.scenes import NUM_CLASSES, TEXTURE_NAMES, draw_scenes, join


@pytest.fixture(scope="module")
def many() -> tuple[scenes.Scenes, scenes.Scenes]:
    """2,000 scenes to learn from and 1,000 others."""
    train = join([draw_scenes(0, chunk, 500, 32) for chunk in range(4)])
    return train, join([draw_scenes(1, chunk, 500, 32) for chunk in range(2)])


def test_scenes_are_a_function_of_their_arguments():
    first, again = draw_scenes(3, 1, 30, 32), draw_scenes(3, 1, 30, 32)
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for other in (draw_scenes(4, 1, 30, 32), draw_scenes(3, 2, 30, 32)):
        assert not np.array_equal(first.mask, other.mask)
        assert not np.array_equal(first.background, other.background)


def test_the_layout_does_not_depend_on_the_side():
    small, large = draw_scenes(0, 0, 60, 32), draw_scenes(0, 0, 60, 64)
    np.testing.assert_array_equal(small.label, large.label)
    np.testing.assert_array_equal(small.family, large.family)
    assert large.mask.shape == (60, 64, 64)
    assert np.mean(large.mask[:, ::2, ::2] == small.mask) > 0.9


def test_classes_are_even_and_backgrounds_typical_half_the_time(many):
    train, _ = many
    counts = np.bincount(train.label, minlength=NUM_CLASSES)
    assert counts.max() - counts.min() <= 4  # one per chunk
    expected = scenes.TYPICAL + (1 - scenes.TYPICAL) / NUM_CLASSES
    deviation = np.sqrt(expected * (1 - expected) / len(train.label))
    assert abs(np.mean(train.family == train.label) - expected) < 4 * deviation
    assert set(train.family) == set(range(NUM_CLASSES))


def test_masks_number_the_visible_objects(many):
    train, _ = many
    numbers = [set(np.unique(mask)) for mask in train.mask]
    assert all(found == set(range(len(found))) for found in numbers)
    counts = np.bincount([len(found) - 1 for found in numbers], minlength=5)
    assert counts[0] == 0
    assert (counts[1:] > 100).all()
    assert 0.3 < np.mean(train.mask > 0) < 0.6
    # Where an object is, the background is mostly hidden, and the other way round.
    hidden = 1 - train.visible[..., 0]
    assert hidden[train.mask > 0].mean() > 0.95
    assert hidden[train.mask == 0].mean() < 0.05
    assert ((train.visible >= 0) & (train.visible <= 1)).all()


def test_an_object_that_is_covered_leaves_no_gap():
    masks = np.zeros((2, 3, 3), np.uint8)
    masks[0, 0], masks[0, 1], masks[1, 2] = 2, 4, 3
    wanted = np.zeros_like(masks)
    wanted[0, 0], wanted[0, 1], wanted[1, 2] = 1, 2, 1
    np.testing.assert_array_equal(scenes._without_gaps(masks), wanted)


def test_outlines_have_one_area():
    line = (np.arange(300) + 0.5) / 75 - 2
    x, y = np.meshgrid(line, line)
    for kind in range(NUM_CLASSES):
        scale = scenes._radius_of(kind)
        area = np.mean(scenes._outline(kind, x * scale, y * scale) < 0) * 16
        assert area == pytest.approx(np.pi, rel=0.03), scenes.CLASS_NAMES[kind]


def test_colors_equal_colorsys():
    rng = np.random.default_rng(0)
    given = rng.random((200, 3))
    wanted = [colorsys.hsv_to_rgb(*row) for row in given]
    np.testing.assert_allclose(scenes._hsv(*given.T), wanted, atol=1e-12)


def test_textures_are_what_they_are_called():
    family = np.repeat(np.arange(NUM_CLASSES), 40)
    gray = scenes._backgrounds(np.random.RandomState(0), family, 32).mean(-1)
    across = np.abs(np.diff(gray, axis=2)).mean((1, 2)).reshape(NUM_CLASSES, 40).mean(1)
    down = np.abs(np.diff(gray, axis=1)).mean((1, 2)).reshape(NUM_CLASSES, 40).mean(1)
    for name, sideways, downwards in zip(TEXTURE_NAMES, across, down, strict=True):
        ratio = sideways / downwards
        low, high = {"round": (0.9, 1.1), "upright": (1.5, 9), "flat": (0, 0.7)}[name.split("_")[1]]
        assert low < ratio < high, name
    assert across[0] < across[3] < across[6]


def statistics(images: np.ndarray) -> np.ndarray:
    """Color statistics of whole images: means, deviations, histograms. [n,F]."""
    pixels = images.reshape(len(images), -1, 3) / 255
    gray = pixels.mean(-1, keepdims=True)
    four = np.concatenate([pixels, gray], axis=-1)
    bins = np.stack([((four >= k / 8) & (four < (k + 1) / 8)).mean(1) for k in range(8)], axis=-1)
    return np.concatenate([four.mean(1), four.std(1), bins.reshape(len(images), -1)], axis=1)


def test_the_label_is_not_in_the_pixels(many):
    """Neither color statistics nor the nearest images tell the class: chance is 11 %."""
    train, test = many
    images, others = train.compose(train.background), test.compose(test.background)
    seen, unseen = statistics(images), statistics(others)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3))
    linear.fit(seen, train.label)
    assert linear.score(unseen, test.label) < 0.2
    nearest = KNeighborsClassifier(20, metric="cosine", algorithm="brute")
    flat, flat_others = (
        x.reshape(len(x), -1).astype(np.float32) / 255 - 0.5 for x in (images, others)
    )
    nearest.fit(flat, train.label)
    assert nearest.score(flat_others, test.label) < 0.32
    # The same regression does find what is there: how much of an image is objects.
    covered = (train.mask > 0).mean((1, 2)) > 0.45
    linear.fit(seen, covered)
    assert linear.score(unseen, (test.mask > 0).mean((1, 2)) > 0.45) > 0.7
