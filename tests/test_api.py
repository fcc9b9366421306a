"""Whole runs in one call."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import adios_tf
from adios_tf.data.in_memory import in_memory
from adios_tf.errors import UserError

TINY = {
    "batch_size": 8,
    "epochs": 2,
    "warmup_epochs": 0,
    "hidden_dim": 8,
    "output_dim": 8,
    "masker_base": 8,
    "num_masks": 2,
}


def encoder():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, 4), keras.layers.ReLU()]
    return keras.Sequential(layers)


def pictures(count=24, side=30):
    return np.random.default_rng(0).integers(0, 255, (count, side, side, 3), np.uint8)


def test_an_array_and_a_model_train_in_one_call_and_resume(tmp_path):
    model, images = encoder(), pictures()
    before = model.get_weights()
    run = adios_tf.pretrain(images, tmp_path / "run", encoder=model, **TINY)
    assert [record["epoch"] for record in run.metrics] == [1, 2]
    assert run.report.exists()
    assert run.masker.output_shape == (None, 32, 32, 2)
    assert run.model.features(images).shape == (24, 4)
    np.testing.assert_allclose(run.model.info["mean"], images.mean((0, 1, 2)) / 255, atol=1e-5)
    for mine, start in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, start)  # a copy was trained
    assert any(
        not np.array_equal(new, old)
        for new, old in zip(run.encoder.get_weights(), before, strict=True)
    )
    done = adios_tf.export(run, tmp_path / "model" / "1")
    assert (tmp_path / "model" / "1" / "saved_model.pb") in {
        f / "saved_model.pb" for f in done.files
    }
    again = adios_tf.pretrain(images, tmp_path / "run", encoder=model, **TINY)
    assert [record["epoch"] for record in again.metrics] == [1, 2]
    for new, old in zip(again.encoder.get_weights(), run.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_data_set_name_is_the_command_line_s(tmp_path):
    settings = {**TINY, "train_images": 16, "epochs": 1, "knn_train_images": 64}
    settings |= {"knn_test_images": 32, "masking": "blocks", "fill": "mix", "grid_size": 4}
    run = adios_tf.pretrain("shapes", tmp_path / "run", encoder="convnet_small", **settings)
    assert run.masker is None
    assert 0 < run.summary["knn_trained"] < 1
    assert "--backbone=convnet_small" in (run.path / "flags.txt").read_text()
    rows = adios_tf.evaluate(run, ["knn"], knn_k=[5], train_images=64, test_images=32)
    assert {row.protocol for row in rows} == {"knn"}


@pytest.mark.parametrize("kind", ["batches", "dicts", "floats", "generator"])
def test_data_sets_of_images(kind):
    images = pictures(10)
    data = tf.data.Dataset.from_tensor_slices(images)
    if kind == "batches":
        data = data.batch(4)
    elif kind == "dicts":
        data = data.map(lambda image: {"image": image, "id": 3})
    elif kind == "floats":
        data = data.map(lambda image: tf.cast(image, tf.float32) / 255)
    else:
        spec = tf.TensorSpec([None, None, 3], tf.uint8)
        data = tf.data.Dataset.from_generator(lambda: iter(images), output_signature=spec)
    found = in_memory(data)
    assert (found.examples.count, found.info.image_size) == (10, 32)
    assert found.info == in_memory(images).info
    for example, image in zip(found.examples.dataset, images, strict=True):
        np.testing.assert_array_equal(example["image"], image)
        assert example["label"] == -1


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "no images"),
        (np.zeros((3, 8, 8, 1), np.uint8), r"must be \[n,H,W,3\]"),
        (np.full((3, 8, 8, 3), 2.0), r"float in \[0,1\]"),
        (np.full((3, 8, 8, 3), np.nan), r"float in \[0,1\]"),
        (np.array(["a"]), r"must be \[n,H,W,3\]"),
        (tf.data.Dataset.from_tensors(tf.zeros([8, 8, 3])).repeat(), "repeats without end"),
        (tf.data.Dataset.from_tensors(tf.fill([8, 8, 3], 7.0)), r"float in \[0,1\]"),
        (tf.data.Dataset.from_tensors(tf.zeros([8, 3])), r"must be \[n,H,W,3\]"),
    ],
)
def test_what_is_no_images_is_one_line(data, line):
    with pytest.raises(UserError, match=line) as error:
        in_memory(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"epoch": 3}, "unknown setting 'epoch': did you mean 'epochs'"),
        ({"epochs": 0}, "--epochs=0: must be at least 1"),
        ({"epochs": "many"}, "epochs"),
        ({"encoder": 3}, "encoder must be a name or a keras.Model"),
        ({"encoder": "resnet8"}, "unknown backbone 'resnet8'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        adios_tf.pretrain(pictures(), tmp_path / "run", **{**TINY, **settings})
    assert not (tmp_path / "run").exists()
