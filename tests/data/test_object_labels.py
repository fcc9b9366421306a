"""Several labels per image, read from the objects in it, as CLEVR has them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from adios_tf.data import CATALOG, describe, load_examples
from adios_tf.data.clevr_masks import FILE
from adios_tf.errors import UserError

COLORS = ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]
SHAPES = ["cube", "sphere", "cylinder"]
SCENES = [[("red", "cube")], [("gray", "cube"), ("yellow", "cylinder"), ("gray", "cube")], []]


def test_clevrs_labels_are_the_colored_shapes_that_are_there(tmp_path):
    def scenes():
        for scene in SCENES:
            yield {
                "image": np.zeros((4, 6, 3), np.uint8),
                "objects": {
                    "color": np.array([COLORS.index(color) for color, _ in scene], np.int64),
                    "shape": np.array([SHAPES.index(shape) for _, shape in scene], np.int64),
                    "size": np.zeros(len(scene), np.int64),
                },
            }

    part = {
        "color": tfds.features.ClassLabel(names=COLORS),
        "shape": tfds.features.ClassLabel(names=SHAPES),
        "size": tfds.features.ClassLabel(names=["large", "small"]),
    }
    image = tfds.features.Image(shape=(4, 6, 3))
    features = tfds.features.FeaturesDict({"image": image, "objects": tfds.features.Sequence(part)})
    column = tf.TensorSpec([None], tf.int64)
    spec = {"image": tf.TensorSpec([4, 6, 3], tf.uint8), "objects": dict.fromkeys(part, column)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_scenes",
        version="1.0.0",
        features=features,
        split_datasets={"train": tf.data.Dataset.from_generator(scenes, output_signature=spec)},
        data_dir=tmp_path,
        disable_shuffling=True,
    )
    info = dataclasses.replace(CATALOG["clevr"], tfds_name="tiny_scenes")
    found = load_examples(info, "train", str(tmp_path))
    assert found.num_classes == info.num_classes == len(found.class_names) == 24
    assert found.class_names[:4] == ("gray cube", "gray sphere", "gray cylinder", "red cube")
    for example, scene in zip(found.dataset, SCENES, strict=True):
        there = {found.class_names[n] for n in np.flatnonzero(example["label"])}
        assert there == {" ".join(thing) for thing in scene}
        assert set(np.unique(example["label"])) <= {0, 1}


def one_byte_strings(values):
    strings = [bytes([value]) for value in np.asarray(values, np.uint8).reshape(-1)]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=strings))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Ten scenes with one red sphere each, in columns 10 n to 10 n + 9."""
    folder = tmp_path_factory.mktemp("clevr")
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    with tf.io.TFRecordWriter(str(folder / FILE), options) as writer:
        for n in range(10):
            mask = np.zeros((11, 240, 320, 1), np.uint8)
            mask[1, :, 10 * n : 10 * n + 10] = 255
            mask[0] = 255 - mask[1]
            image = np.full((240, 320, 3), n)
            codes = {"color": [0, 2] + [0] * 9, "shape": [0, 2] + [0] * 9}
            feature = {"image": image, "mask": mask, **codes}
            feature = {name: one_byte_strings(values) for name, values in feature.items()}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return folder


def test_clevr_with_masks(masked):
    info = describe("clevr_masks")
    train, test = (load_examples(info, split, str(masked)) for split in ("train", "test"))
    assert (train.count, test.count, train.num_classes) == (7, 3, info.num_classes)
    for split, first in ((train, 0), (test, 7)):
        for n, example in enumerate(split.dataset):
            assert example["image"].shape == (240, 320, 3)
            assert np.unique(example["image"]) == first + n
            assert example["index"] == n
            assert train.class_names[int(np.flatnonzero(example["label"]).item())] == "red sphere"
            left = 10 * (first + n)
            expected = np.zeros((240, 320), int)
            expected[:, left : left + 10] = 1
            np.testing.assert_array_equal(example["mask"], expected)
    assert load_examples(info, "all[2:4]", str(masked)).count == 2
    assert load_examples(info, "train", str(masked), limit=2).count == 2


def test_mistakes_about_clevr_with_masks(masked, tmp_path):
    info = describe("clevr_masks")
    with pytest.raises(UserError, match="there is no clevr_with_masks_train"):
        load_examples(info, "train", str(tmp_path))
    with pytest.raises(UserError, match="is empty"):
        load_examples(info, "all[:0]", str(masked))
    content = (masked / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged after"):
        load_examples(info, "train", str(tmp_path))
