"""Several labels per image, read from the objects in it, as CLEVR has them."""

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from adios_tf.data import CATALOG, load_examples

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
