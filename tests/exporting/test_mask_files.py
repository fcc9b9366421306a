import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import adios_tf
from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.errors import UserError
from adios_tf.exporting import mask_files
from adios_tf.exporting.mask_files import write_masks
from adios_tf.nets import build_unet
from adios_tf.programs.masks import Settings
from adios_tf.programs.masks import main as program
from adios_tf.reporting import palette
from adios_tf.reporting.panels import segmentation

SIDE = 16


def save_run(folder, seed, masks=True):
    keras.utils.set_random_seed(seed)
    unet = build_unet(SIDE, 3, base=8)
    images = keras.Input((SIDE, SIDE, 3))
    # Sharp masks, so that every slot wins somewhere.
    sharp = keras.layers.Rescaling(40.0)(unet(images))
    masker = keras.Model(images, keras.layers.Softmax()(sharp)) if masks else None
    info = {"image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3}
    pretrained.save(
        folder / "model", info, build_encoder("convnet_small", SIDE, width=0.25), None, masker
    )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), 0)


@pytest.fixture
def folder(tmp_path):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    (root / "a b").mkdir(parents=True)
    for name, size in (("one.png", (20, 30)), ("a b/two<.jpg", (16, 16)), ("three.gif", (9, 7))):
        image = Image.fromarray(rng.integers(0, 256, (*size, 3)).astype("u1"))
        image.save(root / name)
    (root / "broken.jpg").write_bytes(b"no image")
    (root / "notes.txt").write_text("")
    return root


def test_every_kind_of_file(run, folder, tmp_path):
    out = tmp_path / "out"
    done = write_masks(run, folder, out, batch_size=2)
    assert (done.done, done.kept, list(done.broken)) == (3, 0, ["broken.jpg"])
    model = adios_tf.load(run)
    for name, size in (("one.png", (20, 30)), ("a b/two<.jpg", (16, 16)), ("three.gif", (9, 7))):
        picture = np.asarray(Image.open(folder / name).convert("RGB"))
        stored = np.load(out / "npz" / f"{name}.npz")
        assert tuple(stored["size"]) == size
        np.testing.assert_allclose(stored["masks"], model.masks(picture[None])[0], atol=1e-5)
        flat = Image.open(out / "png" / f"{name}.png")
        assert (flat.mode, flat.size[::-1]) == ("P", size)
        labels = np.asarray(flat)
        if size == (SIDE, SIDE):
            np.testing.assert_array_equal(labels, stored["masks"].argmax(-1) + 1)
        n = labels[3, 3]
        assert np.asarray(flat.convert("RGB"))[3, 3].tolist() == list(
            palette.rgb(palette.slot(n - 1))
        )
        assert Image.open(out / "overlay" / f"{name}.png").size[::-1] == size
    sheet = (out / "index.html").read_text()
    assert 'src="overlay/a%20b/two%3C.jpg.png"' in sheet
    assert "two&lt;.jpg" in sheet
    assert "two<.jpg" not in sheet
    assert "broken.jpg" in sheet
    assert not list(out.rglob("*.part"))


def test_names_that_are_not_utf_8_16_bits_and_large_pictures(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mask_files, "_FINE", 24)
    root, out = tmp_path / os.fsdecode(b"r\xff"), tmp_path / "out"
    root.mkdir()
    deep = np.arange(0, 60 * 40 * 20, 20, dtype=np.uint16).reshape(60, 40)
    Image.fromarray(deep).save(root / os.fsdecode(b"d\xe9.png"))
    (root / os.fsdecode(b"b\xe9.png")).write_bytes(b"no image")
    given = Settings(run=str(run), images=str(root), out=str(out), kinds=("png", "npz", "overlay"))
    program(given)
    assert "1 images, 0 were there already, 1 broken\ncannot read b\\xe9.png: cannot identify" in (
        capsys.readouterr().out
    )
    stored = np.load(out / "npz" / os.fsdecode(b"d\xe9.png.npz"))["masks"]
    picture = np.dstack([deep // 256] * 3).astype(np.uint8)
    np.testing.assert_allclose(stored, adios_tf.load(run).masks(picture[None])[0], atol=1e-5)
    labels = np.asarray(Image.open(out / "png" / os.fsdecode(b"d\xe9.png.png")))
    assert labels.shape == (60, 40)
    fine = tf.image.resize(stored[None], (60, 40), "bilinear").numpy()
    assert (labels == segmentation(fine)[0] + 1).mean() > 0.85
    sheet = (out / "index.html").read_text()
    assert 'src="overlay/d%E9.png.png"' in sheet
    assert "b\\xe9.png: " in sheet


def test_it_goes_on_where_it_stopped(run, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write = mask_files._write
    written = []

    def stopping(out, name, *rest):
        if written:
            raise KeyboardInterrupt
        written.append(name)
        write(out, name, *rest)

    monkeypatch.setattr(mask_files, "_write", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_masks(run, folder, out)
    monkeypatch.setattr(mask_files, "_write", write)
    done = write_masks(run, folder, out)
    assert (done.done, done.kept) == (2, 1)
    assert write_masks(run, folder, out).kept == 3
    assert write_masks(run, folder, out, overwrite=True).done == 3


def test_mistakes(run, folder, tmp_path):
    out = tmp_path / "out"
    write_masks(run, folder, out, kinds=["npz"])
    other = save_run(tmp_path / "other", 1)
    maskless = save_run(tmp_path / "maskless", 1, masks=False)
    for arguments, match in (
        ((other, folder, out), "masks of another model"),
        ((maskless, folder, tmp_path / "new"), "has no masker"),
        ((run, tmp_path / "absent", tmp_path / "new"), "is not a folder"),
        ((run, folder, other), "not empty and holds no masks"),
        ((run, folder, tmp_path / "new", ["pgn"]), "did you mean 'png'"),
    ):
        with pytest.raises(UserError, match=match):
            write_masks(*arguments)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        write_masks(run, tmp_path / "empty", tmp_path / "new")
    assert not (tmp_path / "new").exists()
