"""Splits as the protocols read them."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.data.catalog import describe
from adios_tf.data.geometry import ImageSpec, evaluation_transform
from adios_tf.errors import UserError
from adios_tf.evaluation.augmentation import Augmentation
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.data import open_pair, open_split

LOOK = ImageSpec(16, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def split(root, **settings):
    config = EvaluateConfig(dataset=str(root), batch_size=7, **settings)
    return open_split(config, describe(str(root)), "all", 0, LOOK)


def test_batches_are_prepared_in_order(pictures):
    found = split(pictures)
    batches = list(found.batches())
    assert [len(batch["image"]) for batch in batches] == [7] * 8 + [4]
    np.testing.assert_array_equal(found.labels, np.repeat([0, 1, 2], 20))
    image = tf.io.decode_png(tf.io.read_file(str(pictures / "blue" / "03.png")))
    expected = (evaluation_transform(image, 16).numpy() - LOOK.mean) / LOOK.std
    np.testing.assert_allclose(batches[0]["image"][3], expected, atol=1e-5)
    raw = next(found.batches(normalized=False))["image"].numpy()
    np.testing.assert_allclose(raw[3], evaluation_transform(image, 16), atol=1e-6)
    assert sum(len(batch["image"]) for batch in found.batches(10)) == 10


def test_pictures_are_what_batches_show(pictures):
    found = split(pictures)
    images = found.pictures(9)
    assert images.shape == (9, 16, 16, 3)
    assert images.dtype == np.uint8
    raw = next(found.batches(normalized=False))["image"].numpy()
    assert np.abs(images[:7] / 255 - raw).max() <= 0.5 / 255 + 1e-6


def test_an_undivided_folder_is_divided_by_class(pictures):
    info = describe(str(pictures))
    train, test = open_pair(EvaluateConfig(dataset=str(pictures)), info, LOOK)
    assert (train.count, test.count) == (48, 12)
    assert np.bincount(test.labels).tolist() == [4, 4, 4]
    both = np.concatenate([train.pictures(), test.pictures()])
    assert len(np.unique(both.reshape(60, -1), axis=0)) == 60
    [(images, labels)] = train.augmented(np.arange(48), 48, 1, 0, Augmentation())
    assert len(images) == 48
    assert np.bincount(labels).tolist() == [16] * 3
    limits = EvaluateConfig(dataset=str(pictures), train_images=12, test_images=6)
    fewer, tested = open_pair(limits, info, LOOK)
    assert (fewer.count, tested.count) == (12, 6)
    assert np.bincount(fewer.labels).tolist() == [4, 4, 4]
    assert set(np.unique(tested.labels)) == {0, 1, 2}
    overlapping = {"train_split": "train[:60%]", "test_split": "train[40%:]"}
    with pytest.raises(UserError, match="share images"):
        open_pair(EvaluateConfig(dataset=str(pictures), **overlapping), info, LOOK)
    slices = {"train_split": "train[:50%]", "test_split": "train[50%:]"}
    train, test = open_pair(EvaluateConfig(dataset=str(pictures), **slices), info, LOOK)
    assert train.labels.tolist() == [0] * 20 + [1] * 10
    assert test.count == 30


def test_a_divided_folder_is_taken_as_it_is(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "train")
    (tmp_path / "val").mkdir()
    for name in ("blue", "green", "red"):
        (tmp_path / "val" / name).mkdir()
        for index in (1, 2):
            file = f"{index:02d}.png"
            shutil.move(tmp_path / "train" / name / file, tmp_path / "val" / name / file)
    info = describe(str(tmp_path))
    train, test = open_pair(EvaluateConfig(dataset=str(tmp_path)), info, LOOK)
    assert (train.count, test.count) == (54, 6)
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    shutil.rmtree(tmp_path / "val")
    train, test = open_pair(EvaluateConfig(dataset=str(tmp_path)), info, LOOK)
    assert train.count + test.count == 54
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(UserError, match="holds test and no train"):
        open_pair(EvaluateConfig(dataset=str(tmp_path)), describe(str(tmp_path)), LOOK)


def test_label_maps():
    config = EvaluateConfig(dataset="shapes")
    found = open_split(config, describe("shapes"), "test", 0, LOOK)
    maps = found.label_maps(5)
    assert maps.shape == (5, 16, 16)
    assert maps.min() == 0
    assert 1 <= maps.max() <= 4


def test_void_is_ignored_and_sky_is_no_background(real_images):
    config = EvaluateConfig(dataset="camvid_240x180", data_dir=str(real_images))
    found = open_split(config, describe("camvid_240x180"), "test", 3, LOOK)
    values = np.unique(found.label_maps())
    assert values[0] == -1
    assert 0 not in values
    assert values[-1] <= 11


def test_no_ground_truth(pictures):
    with pytest.raises(UserError, match="no ground-truth masks"):
        split(pictures).label_maps()
