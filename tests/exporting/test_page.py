"""The server's page in a real browser."""

import io
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")

from adios_tf.exporting.reference_set import read_reference
from adios_tf.exporting.server import Server


def real_jpegs(folder, count=3):
    """Photographs as JPEG files."""
    import tensorflow_datasets as tfds

    data = tfds.load("cifar10", split=f"test[:{count}]", data_dir=folder)
    return [tf.io.encode_jpeg(e["image"], quality=95).numpy() for e in data]


@pytest.fixture(scope="module")
def photographs(request):
    try:
        return real_jpegs(request.getfixturevalue("real_images"))
    except pytest.skip.Exception:
        rng = np.random.default_rng(0)
        drawn = tf.image.resize(rng.random((3, 4, 5, 3)), (40, 50), "bicubic")
        return [
            tf.io.encode_jpeg(tf.image.convert_image_dtype(image, tf.uint8, saturate=True)).numpy()
            for image in drawn
        ]


@pytest.fixture(scope="module")
def running(tiny_export, serving, photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    for index, file in enumerate(photographs):
        (folder / f"{index}.jpg").write_bytes(file)
    return serving(Server(tiny_export, reference=partial(read_reference, str(folder))))


def test_a_dropped_image_shows_masks_copies_and_neighbors(running, chromium, photographs, tmp_path):
    with chromium.Browser(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{running.port}/")
        assert browser.run("document.getElementById('masks').hidden")
        browser.drop(photographs[1], "photo.jpg", "image/jpeg")
        browser.wait_for("document.getElementById('state').textContent.startsWith('done')")
        assert browser.run("document.querySelectorAll('#slots figure').length") == 4
        assert browser.run("document.querySelectorAll('#slots img').length") == 7
        assert browser.run(
            "[...document.images].every((i) => i.hidden || (i.complete && i.naturalWidth > 1))"
        )
        captions = browser.run(
            "[...document.querySelectorAll('#slots figcaption')].map((c) => c.textContent)"
        )
        shares = [int(text.split(": ")[1].split(" %")[0]) for text in captions[:3]]
        assert abs(sum(shares) - 100) <= 2
        nearest = "document.querySelector('#neighbors figcaption').textContent"
        assert browser.run(nearest) == "image 1, 1.000"
        browser.screenshot(tmp_path / "page.png")
        shot = np.asarray(Image.open(tmp_path / "page.png"))
        assert len(np.unique(shot.reshape(-1, shot.shape[-1]), axis=0)) > 100

        browser.drop(b"no image", "notes.txt", "text/plain")
        browser.wait_for("document.getElementById('state').className === 'bad'")
        said = browser.run("document.getElementById('state').textContent")
        assert "no image that can be read" in said
        assert browser.run("document.getElementById('masks').hidden")

        own = f"http://127.0.0.1:{running.port}/"
        asked = [a for a in browser.requested() if not a.startswith(("data:", "blob:"))]
        assert asked
        assert all(address.startswith(own) for address in asked)
        expected = "status of 400"
        assert [text for text in browser.complaints() if expected not in text] == []


def test_a_server_that_is_gone_is_told(tiny_export, serving, chromium, tmp_path):
    running = serving(Server(tiny_export))
    with chromium.Browser(tmp_path / "profile") as browser:
        browser.open(f"http://127.0.0.1:{running.port}/")
        browser.run("window.fetch = () => Promise.reject(new TypeError('gone'))")
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        browser.drop(buffer.getvalue(), "a.png", "image/png")
        browser.wait_for("document.getElementById('state').className === 'bad'")
        assert "does not answer" in browser.run("document.getElementById('state').textContent")
