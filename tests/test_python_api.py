"""What `import adios_tf` offers to somebody who has a model of their own."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import adios_tf
from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.nets import build_projector, build_unet
from adios_tf.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SIDE = 16
NAMED = r"^ +[\w, *]*\b{0}\b[\w, ]*:|`{0}`"  # a parameter in "Args:", or in the text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a small encoder, a projector and a masker."""
    folder = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(0)
    unet = build_unet(SIDE, 3, base=8)
    images = keras.Input((SIDE, SIDE, 3))
    masker = keras.Model(images, keras.layers.Softmax()(unet(images)))
    encoder = build_encoder("convnet_small", SIDE, width=0.5)
    info = {"image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3, "dataset": "shapes"}
    projector = build_projector("simclr", encoder.output_shape[-1], 8, 4)
    pretrained.save(folder / "model", info, encoder, projector, masker)
    return folder


def test_importing_is_light():
    code = """
import sys, time
started = time.perf_counter()
import adios_tf
assert time.perf_counter() - started < 0.3
assert not {"tensorflow", "keras", "numpy"} & set(sys.modules)
assert adios_tf.__version__ and "losses" in dir(adios_tf)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("module", [adios_tf, adios_tf.evaluation])
def test_every_public_name_is_there(module):
    assert module.__all__ == dir(module)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        module.lode  # noqa: B018


def test_the_version_is_that_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "adios_tf.__version__"}


def public(module):
    """{dotted name: object} of all that users reach, without modules."""
    found = {}
    for name in module.__all__:
        value, dotted = getattr(module, name), f"{module.__name__}.{name}"
        found |= public(value) if inspect.ismodule(value) else {dotted: value}
    return found


def test_docstrings_name_every_parameter():
    """Also those that a base class explains; settings and tuples explain their fields in place."""
    silent = set()
    for name, value in public(adios_tf).items():
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        docs = "\n".join(c.__doc__ or "" for c in getattr(value, "__mro__", (value, object))[:-1])
        call = vars(value).get("__init__") if inspect.isclass(value) else value
        parameters = set(inspect.signature(call).parameters) if call else set()
        unnamed = {p for p in parameters if not re.search(NAMED.format(p), docs, re.M)}
        unnamed -= {"self", "args", "kwargs", "name", "config"}
        if inspect.isfunction(value) and re.search(r"(see|as) `\w+`", docs):
            continue
        silent |= {f"{name}: {p}" for p in unnamed} or ({name} if not value.__doc__ else set())
    assert {line for line in silent if "Config: " not in line} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_name_public_things_only(page):
    text = page.read_text()
    assert not re.findall(r"(?:from|import) adios_tf\.[\w.]*", text), "a deep import"
    for name in re.findall(r"`(adios_tf(?:\.\w+)+)", text):
        found = adios_tf
        for part in name.split(".")[1:]:
            assert part in getattr(found, "__all__", dir(found)), name
            found = getattr(found, part)


def test_the_page_names_every_public_name():
    named = set(re.findall(r"`adios_tf\.(\w+)`", (ROOT / "docs" / "python.md").read_text()))
    assert named == set(adios_tf.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, run, tmp_path, monkeypatch):
    """All Python blocks of a page, one after another, but those that need the real data sets."""
    own = adios_tf.evaluation.PROTOCOLS, adios_tf.encoders.BACKBONES
    for registry in (OBJECTIVES, MASKINGS, FILLS, *own):
        for part in ("_entries", "_lines"):
            monkeypatch.setattr(registry, part, dict(getattr(registry, part)))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    code = "\n".join(block for block in blocks if "../shared" not in block)
    if '"models/adios/1"' in code:
        adios_tf.export(run, "models/adios/1")
    scope = {"__name__": "page"}
    exec(re.sub('"(RUN|runs/quickstart)"', repr(str(run)), code), scope)
    if page.stem == "README":
        assert scope["features"].shape[0] == scope["masks"].shape[0] == 64
    if page.stem == "export":
        assert scope["features"].shape[0] == 8
        assert scope["masks"].shape == (8, SIDE, SIDE, 3)


def labeled(count=64):
    """Pictures whose label is told by the place of a bright square."""
    rng = np.random.default_rng(0)
    images = rng.random((count, 20, 24, 3)).astype("f4") * 0.3
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        image[4:12, 2 + 12 * label : 10 + 12 * label] += 0.6
    return images, labels


def users_model(encoder):
    inputs = keras.Input((20, 24, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(encoder(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    return model


def test_fine_tuning_inside_a_users_model(run, tmp_path, recwarn):
    encoder = adios_tf.load(run)
    before = [np.array(w) for w in encoder.encoder.trainable_weights]
    others = [np.array(w) for part in (encoder.projector, encoder.masker) for w in part.weights]
    model = users_model(encoder)
    assert len(model.trainable_weights) == len(before) + 2
    images, labels = labeled()
    losses = model.fit(images, labels, batch_size=16, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(before, encoder.encoder.trainable_weights, strict=True)
    ]
    assert all(changed)
    kept = [w for part in (encoder.projector, encoder.masker) for w in part.weights]
    for old, new in zip(others, kept, strict=True):
        np.testing.assert_array_equal(old, new)
    assert not [w for w in recwarn if "radients do not exist" in str(w.message)]

    model.save(tmp_path / "mine.keras")
    again = keras.models.load_model(tmp_path / "mine.keras")
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)


def test_a_frozen_encoder_stays_as_it_is(run):
    encoder = adios_tf.load(run)
    encoder.trainable = False
    before = [np.array(w) for w in encoder.encoder.weights]
    images, labels = labeled()
    users_model(encoder).fit(images, labels, epochs=1, verbose=0)
    for old, new in zip(before, encoder.encoder.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_uint8_and_float_of_any_size_mean_the_same(run):
    model = adios_tf.load(run)
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 21, 3)).astype("u1")
    features = model.features(images)
    np.testing.assert_allclose(features, model.features(images / 255), atol=1e-5)
    np.testing.assert_allclose(features, model(tf.constant(images)), atol=1e-6)
    assert model.masks(images).shape == (2, SIDE, SIDE, 3)
    assert model.occluded(images).shape == (2, 3, SIDE, SIDE, 3)
    dynamic = tf.function(model.features, [tf.TensorSpec([None] * 4, tf.uint8)])
    np.testing.assert_allclose(features, dynamic(images), atol=1e-5)
    fitting = tf.image.resize(images / 255.0, (SIDE, SIDE)).numpy()
    np.testing.assert_allclose(model.features(fitting), dynamic_float(model)(fitting), atol=1e-5)


def dynamic_float(model):
    return tf.function(model.features, [tf.TensorSpec([None, None, None, 3], tf.float32)])


@pytest.mark.parametrize("shape", [(4, 4, 3), (1, 4, 4, 1), (1, 2, 4, 4, 3)])
def test_images_of_another_shape_are_refused(run, shape):
    with pytest.raises(adios_tf.UserError, match=r"must be \[B,H,W,3\]"):
        adios_tf.load(run).features(np.zeros(shape, "f4"))


def test_folders_that_hold_no_model(run, tmp_path):
    with pytest.raises(adios_tf.UserError, match="no pretrained model in"):
        adios_tf.load(tmp_path)
    (tmp_path / "info.json").write_text("{")
    with pytest.raises(adios_tf.UserError, match="the folder is damaged"):
        adios_tf.load(tmp_path)
    (tmp_path / "info.json").write_text('{"image_size": 3}')
    with pytest.raises(adios_tf.UserError, match="does not tell mean, three numbers"):
        adios_tf.load(tmp_path)
