import numpy as np
import pytest
from PIL import Image

from adios_tf.reporting import palette
from adios_tf.reporting.panels import color_labels, mask_panel, segmentation


def _inputs(count=2, side=32, slots=4):
    rng = np.random.default_rng(0)
    images = rng.random((count, side, side, 3))
    masks = rng.dirichlet(np.ones(slots), size=(count, side, side))
    truth = rng.integers(0, 3, (count, side, side))
    return images, masks, truth


def _holds(picture, tile):
    """Whether the tile stands somewhere in the picture, pixel for pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], tile.shape[:2])
    corner = (windows[..., 0, :8] == tile[0, :8, 0]).all(axis=-1)
    height, width = tile.shape[:2]
    return any(
        np.array_equal(picture[y : y + height, x : x + width], tile)
        for y, x in zip(*np.nonzero(corner), strict=True)
    )


def test_every_cell_is_there_blown_up_without_blur(tmp_path):
    images, masks, truth = _inputs()
    picture = mask_panel(images, masks, truth, tmp_path / "new" / "panel.png")
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "panel.png")), picture)

    def big(values):
        values = np.round(255 * np.asarray(values)).astype(np.uint8)
        values = values if values.ndim == 3 else np.stack([values] * 3, -1)
        return values.repeat(3, 0).repeat(3, 1)

    for row in range(2):
        assert _holds(picture, big(images[row]))
        for slot in range(4):
            mask = masks[row, ..., slot]
            assert _holds(picture, big(mask))
            assert _holds(picture, big(images[row] * (1 - mask[..., None])))
        segments = color_labels(masks[row].argmax(-1) + 1, 0)
        assert _holds(picture, segments.repeat(3, 0).repeat(3, 1))
        assert _holds(picture, color_labels(truth[row], 0).repeat(3, 0).repeat(3, 1))


def test_width_follows_slots_and_truth_and_stays_readable():
    images, masks, truth = _inputs(8)
    with_truth, without = mask_panel(images, masks, truth), mask_panel(images, masks)
    assert with_truth.shape[0] == without.shape[0] < 900
    assert without.shape[1] < with_truth.shape[1] < 1200
    assert mask_panel(*_inputs(8, slots=6)[:2]).shape[1] < 1600


def test_large_images_are_shrunk_and_labels_never_mixed():
    images, masks, truth = _inputs(1, 224, 2)
    picture = mask_panel(0 * images, masks, np.where(truth > 0, 1, 0))
    assert picture.shape[0] < 224
    cell = picture[40:150, -140:-15].reshape(-1, 3)
    allowed = {palette.rgb(palette.NOTHING), palette.rgb(palette.slot(0))}
    assert {tuple(color) for color in cell} == allowed


def test_hidden_pixels_are_black():
    images, _, _ = _inputs(2)
    assert _holds(mask_panel(images, np.ones((2, 32, 32, 1))), np.zeros((96, 96, 3), np.uint8))


def test_segmentation_leaves_visible_pixels_unassigned():
    one = np.array([[[[0.4], [0.6]]]])
    np.testing.assert_array_equal(segmentation(one), [[[-1, 0]]])
    many = np.full((1, 1, 1, 6), 1 / 6, np.float32)
    many[..., 4] += 1e-3
    assert segmentation(many).item() == 4


def test_what_is_not_finite_is_magenta():
    images, masks, _ = _inputs(1)
    masks[0, 0, 0, 1] = np.nan
    picture = mask_panel(images, masks)
    assert (picture == (255, 0, 255)).all(-1).sum() >= 9


def test_colors_differ_and_repeat_only_after_the_palette():
    colors = [palette.NOTHING, *(palette.slot(n) for n in range(12))]
    assert len(set(colors)) == 13
    assert palette.slot(12) == palette.slot(0)
    labels = color_labels(np.array([-1, 0, 1, 12, 13]), 0)
    assert [tuple(c) for c in labels] == [
        palette.rgb(c) for c in (colors[0], colors[0], colors[1], colors[12], colors[1])
    ]


@pytest.mark.parametrize(
    ("images", "masks", "truth"),
    [
        ((2, 8, 8), (2, 8, 8, 3), None),
        ((2, 8, 8, 3), (2, 8, 8), None),
        ((2, 8, 8, 3), (2, 4, 4, 3), None),
        ((0, 8, 8, 3), (0, 8, 8, 3), None),
        ((2, 8, 8, 3), (2, 8, 8, 3), (2, 8, 8, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, masks, truth):
    with pytest.raises(ValueError, match="must be"):
        mask_panel(np.zeros(images), np.zeros(masks), None if truth is None else np.zeros(truth))
