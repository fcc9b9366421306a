"""The model folder: saved and read back, fed with any image, trained inside another model."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.nets import build_unet

INFO = {"image_size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "dataset": "none"}


def dense(inputs: int, outputs: int) -> keras.Model:
    x = keras.Input((inputs,))
    return keras.Model(x, keras.layers.Dense(outputs)(x))


def encoder() -> keras.Model:
    return tiny.encoder(16, 6, kernel=4, strides=4)


@pytest.fixture(scope="module")
def parts():
    keras.utils.set_random_seed(0)
    unet = build_unet(16, 3, base=8, num_blocks=2)
    return {
        "encoder": encoder(),
        "projector": dense(6, 4),
        "masker": keras.Sequential([unet, keras.layers.Softmax()]),
        "predictor": dense(4, 4),
        "target_encoder": encoder(),
        "target_projector": dense(6, 4),
        "classifier": dense(6, 10),
    }


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    return pretrained.save(tmp_path_factory.mktemp("run") / "model", INFO, **parts)


@pytest.fixture
def model(folder):
    return pretrained.load(folder)


def images(count=3, height=16, width=16):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def test_every_part_comes_back_as_it_was(folder, parts):
    for path in (folder, folder.parent, str(folder.parent)):
        loaded = pretrained.load(path)
        assert loaded.info == INFO
        assert list(loaded.parts()) == list(pretrained.PARTS) == list(parts)
    inputs = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    for name, part in loaded.parts().items():
        x = (
            inputs
            if len(part.input_shape) == 4
            else inputs.reshape(2, -1)[:, : part.input_shape[1]]
        )
        np.testing.assert_array_equal(part(x), parts[name](x))


def test_parts_that_are_not_there(parts, tmp_path):
    pretrained.save(tmp_path / "model", INFO, parts["encoder"])
    loaded = pretrained.load(tmp_path)
    assert list(loaded.parts()) == ["encoder"]
    assert loaded.projector is None
    for wanted in (loaded.masks, loaded.occluded):
        with pytest.raises(UserError, match="no masker"):
            wanted(images())
    with pytest.raises(TypeError, match="no part head"):
        pretrained.save(tmp_path / "model", INFO, parts["encoder"], head=parts["projector"])


def test_saving_again_replaces_the_whole_folder(parts, tmp_path):
    pretrained.save(tmp_path / "model", INFO, parts["encoder"], parts["projector"])
    pretrained.save(tmp_path / "model", INFO | {"step": 2}, parts["encoder"])
    assert [f.name for f in tmp_path.iterdir()] == ["model"]
    assert {f.name for f in (tmp_path / "model").iterdir()} == {"info.json", "encoder.keras"}
    assert pretrained.load(tmp_path).info["step"] == 2


def test_a_failed_save_leaves_the_older_model(parts, tmp_path):
    pretrained.save(tmp_path / "model", INFO, parts["encoder"])
    with pytest.raises(TypeError):
        pretrained.save(tmp_path / "model", INFO | {"step": object()}, parts["encoder"])
    assert pretrained.load(tmp_path).info == INFO


def test_uint8_and_float_images_are_normalized_alike(model, parts):
    pixels = images()
    wanted = (pixels / 255 - np.array(INFO["mean"])) / np.array(INFO["std"])
    for given in (pixels, (pixels / 255).astype(np.float32), pixels / 255, tf.constant(pixels)):
        np.testing.assert_allclose(model.preprocess(given), wanted, atol=1e-5)
        features = parts["encoder"](wanted.astype(np.float32))
        np.testing.assert_allclose(model.features(given), features, atol=1e-5)
    assert model(pixels).shape == (3, 6)


@pytest.mark.parametrize("side", [(40, 24), (5, 7), (16, 17)])
def test_other_sizes_are_resized(model, side):
    pixels = images(2, *side)
    wanted = tf.image.resize(pixels / 255, (16, 16), "bicubic", antialias=True)
    wanted = np.clip(wanted, 0, 1)
    np.testing.assert_allclose(model.resize(pixels), wanted, atol=1e-5)
    # The same where the size is not known before the run.
    unknown = tf.function(model.resize, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(unknown(pixels / 255), wanted, atol=1e-5)
    np.testing.assert_array_equal(unknown(images(2) / 255), tf.cast(images(2) / 255, tf.float32))


@pytest.mark.parametrize("shape", [(16, 16, 3), (2, 16, 16), (2, 16, 16, 1), (2, 3, 16, 16)])
def test_images_of_another_shape_are_refused(model, shape):
    with pytest.raises(UserError, match=r"\[B,H,W,3\]"):
        model.features(np.zeros(shape, np.float32))


def test_masks_and_occluded_copies(model):
    pixels = images(2)
    masks = model.masks(pixels).numpy()
    assert masks.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(masks.sum(-1), 1, atol=1e-5)
    covered = model.occluded(pixels).numpy()
    assert covered.shape == (2, 3, 16, 16, 3)
    for b, n in np.ndindex(2, 3):
        mask = masks[b, :, :, n, None]
        wanted = (1 - mask) * pixels[b] / 255 + mask * np.array(INFO["mean"])
        np.testing.assert_allclose(covered[b, n], wanted, atol=1e-5)


def test_as_a_layer_of_a_users_own_model(model, tmp_path):
    """A few steps lower the loss and move the encoder, not the other parts; it can be saved."""
    inputs = keras.Input((20, 20, 3), dtype="uint8")
    classifier = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(0.02), loss)
    pixels, labels = images(8, 20, 20), np.arange(8) % 2
    before = [w.copy() for w in model.encoder.get_weights()]
    masker = [w.copy() for w in model.masker.get_weights()]
    losses = classifier.fit(pixels, labels, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    moved = [
        not np.array_equal(a, b) for a, b in zip(before, model.encoder.get_weights(), strict=True)
    ]
    assert all(moved)
    for one, two in zip(masker, model.masker.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert len(classifier.trainable_variables) == len(model.encoder.trainable_variables) + 2
    classifier.save(tmp_path / "mine.keras")
    again = keras.models.load_model(tmp_path / "mine.keras")
    np.testing.assert_allclose(
        again.predict(pixels, verbose=0), classifier.predict(pixels, verbose=0)
    )


def test_frozen_as_a_layer(model):
    model.trainable = False
    inputs = keras.Input((16, 16, 3))
    probe = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    assert len(probe.trainable_variables) == 2
    probe.compile("adam", "mse")
    before = [w.copy() for w in model.encoder.get_weights()]
    probe.fit(images(4) / 255, np.zeros((4, 2)), epochs=2, verbose=0)
    for one, two in zip(before, model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_is_missing_or_damaged_is_told(folder, tmp_path):
    def told(path):
        with pytest.raises(UserError) as caught:
            pretrained.load(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no pretrained model" in told(tmp_path / "gone")
    model = tmp_path / "model"
    model.mkdir()
    assert "no pretrained model" in told(tmp_path)
    (model / "info.json").write_text("{not json")
    assert "damaged" in told(tmp_path)
    (model / "info.json").write_text(json.dumps({"image_size": 16}))
    assert "does not tell mean" in told(tmp_path)
    (model / "info.json").write_text(json.dumps(INFO))
    assert "no encoder.keras" in told(tmp_path)
    whole = (folder / "encoder.keras").read_bytes()
    for damaged in (b"", b"PK nonsense", whole[: len(whole) // 2]):
        (model / "encoder.keras").write_bytes(damaged)
        assert "encoder.keras" in told(tmp_path)


GARBAGE = [None, True, "x", -1, 8.5, 10**9, float("nan"), float("inf"), [], [1], {}, {"a": 1}]
THREE = [
    [0.1, 0.2],
    [0.1] * 4,
    [0.1, "x", 0.1],
    [0.1, None, 0.1],
    [0.1, True, 0.1],
    [[0.1] * 3] * 3,
]
THREE += [[0.1, float("nan"), 0.1], [0.1, float("inf"), 0.1], "0.1,0.1,0.1", 0.1]
WRONG = {
    "image_size": [*GARBAGE, 0],
    "mean": GARBAGE + THREE,
    "std": [*GARBAGE, *THREE, [0.1, 0.0, 0.1], [0.1, -0.1, 0.1], [0.1, 1e-300, 0.1]],
}
NO_NUMBER, NO_TEXT = (None, True, "x", -1, 8.5, [], {}, 1e300), (None, True, 3, [], ["x"], {})
NO_TEXTS = (None, "x", 3, ["x", 3], {})
WRONG |= dict.fromkeys("step num_masks high_pass hidden_dim output_dim".split(), NO_NUMBER)
WRONG |= dict.fromkeys("dataset backbone stem padding objective masking fill".split(), NO_TEXT)
WRONG |= dict.fromkeys("recipe source commit".split(), NO_TEXT)
WRONG |= dict.fromkeys(("class_names", "untrained_parts"), NO_TEXTS)
SAVED_MODEL = "assets.extra/architecture.json"


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_fact_names_file_key_value_and_what_is_allowed(folder, tmp_path, key):
    """In a run folder and in an export; nothing is built or allocated before."""
    shutil.copytree(folder, tmp_path / "run" / "model")
    (tmp_path / "export" / "assets.extra").mkdir(parents=True)
    files = {"run": "run/model/info.json", "export": f"export/{SAVED_MODEL}"}
    for value in WRONG[key]:
        info = INFO | {key: value}
        for path, file in files.items():
            text = json.dumps(info if path == "run" else {"info": info, "parts": {}})
            (tmp_path / file).write_text(text)
            with pytest.raises(UserError) as caught:
                pretrained.load(tmp_path / path)
            line = str(caught.value)
            assert line.startswith(f"{tmp_path / file}: {key} is {value!r}, but must be "), line
            assert "\n" not in line


def test_facts_that_are_missing_or_no_object(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "info.json"
    contents = [json.dumps({k: v for k, v in INFO.items() if k != key}) for key in INFO]
    for text in (*contents[:3], "[]", "3", "null", "[" * 100_000, "", "\xff"):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=r"info\.json") as caught:
            pretrained.load(tmp_path)
        assert "\n" not in str(caught.value)
    file.write_text(json.dumps(INFO | {"image_size": 32}))
    with pytest.raises(UserError, match="image_size is 32, but the encoder was built for 16"):
        pretrained.load(tmp_path)
    file.write_text(json.dumps(INFO | {"my own": [None], "step": 0}))
    assert pretrained.load(tmp_path).info["my own"] == [None]
