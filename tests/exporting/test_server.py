"""The REST API over a real socket."""

import asyncio
import base64
import io
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")

import adios_tf
from adios_tf.errors import UserError
from adios_tf.exporting.reference_set import read_reference
from adios_tf.exporting.server import Limits, Server, serve

SIDE = 16
LIMITS = Limits(max_body_mb=0.2, read_timeout=0.5, max_images=8)


def pictures(count=5):
    """Pictures of several sizes as uint8 arrays, and as PNG files."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (20 + n, 30 - n, 3)).astype("u1") for n in range(count)]
    return arrays, [tf.io.encode_png(array).numpy() for array in arrays]


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


@pytest.fixture(scope="module")
def running(tiny_export, tmp_path_factory, serving):
    folder = tmp_path_factory.mktemp("reference")
    for index, file in enumerate(pictures()[1]):
        (folder / f"{index}.png").write_bytes(file)
    return serving(Server(tiny_export, "tiny", LIMITS, partial(read_reference, str(folder))))


@pytest.fixture(scope="module")
def model(tiny_export):
    return adios_tf.load(tiny_export)


def test_status_metadata_and_health(running):
    for path in ("/v1/models/tiny", "/v1/models/tiny/versions/3"):
        status, answer = running.ask("GET", path)
        assert status == 200
        (version,) = answer["model_version_status"]
        assert (version["version"], version["state"]) == ("3", "AVAILABLE")
    _, answer = running.ask("GET", "/v1/models/tiny/metadata")
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    definitions = answer["metadata"]["signature_def"]["signature_def"]
    assert definitions["masks_uint8"]["inputs"]["images"]["dtype"] == "DT_UINT8"
    sizes = definitions["masks_bytes"]["outputs"]["masks"]["tensor_shape"]["dim"]
    assert [d["size"] for d in sizes] == ["-1", "16", "16", "3"]
    assert running.ask("GET", "/healthz")[1]["status"] == "ok"


def test_rows_and_columns_by_bytes(running, model):
    arrays, files = pictures()
    expected = [model.features(array[None])[0] for array in arrays]
    instances = [{"bytes": b64(files[0])}, b64(b"no image"), b64(files[1])]
    status, answer = running.predict({"signature_name": "embed_bytes", "instances": instances})
    assert status == 200
    rows = answer["predictions"]
    assert [row["ok"] for row in rows] == [True, False, True]
    np.testing.assert_allclose(rows[0]["features"], expected[0], atol=1e-5)
    np.testing.assert_allclose(rows[2]["features"], expected[1], atol=1e-5)
    assert not np.any(rows[1]["features"])
    for inputs in ([b64(f) for f in files], {"bytes": [b64(f) for f in files]}):
        status, answer = running.predict(
            {"signature_name": "embed_bytes", "inputs": inputs},
            "/v1/models/tiny/versions/3:predict",
        )
        np.testing.assert_allclose(answer["outputs"]["features"], expected, atol=1e-5)


def test_numbers(running, model):
    images = np.random.default_rng(0).random((2, 9, 12, 3)).round(3).astype("f4")
    status, answer = running.predict({"instances": images.tolist()})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], model.features(images), atol=1e-5)
    levels = (255 * images).astype("u1")
    status, answer = running.predict(
        {"signature_name": "masks_uint8", "inputs": {"images": levels.tolist()}}
    )
    np.testing.assert_allclose(answer["outputs"]["masks"], model.masks(levels), atol=1e-5)
    np.testing.assert_allclose(answer["outputs"]["occluded"], model.occluded(levels), atol=1e-5)


def test_classify_as_tensorflow_serving_documents_it(running, model):
    arrays, files = pictures(2)
    logits = np.stack([model.classifier(model.features(a[None]))[0] for a in arrays])
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    path = "/v1/models/tiny:classify"
    for body in (
        {"signature_name": "classify_bytes", "examples": [{"bytes": b64(f)} for f in files]},
        {"examples": [{"bytes": b64(f)} for f in files]},
    ):
        status, answer = running.predict(body, path)
        assert status == 200
        assert [[label for label, _ in row] for row in answer["results"]] == [list("0123")] * 2
        scores = [[score for _, score in row] for row in answer["results"]]
        np.testing.assert_allclose(scores, shares, atol=1e-5)
    body = {"context": {"bytes": b64(files[1])}, "examples": [{}, {}]}
    _, answer = running.predict(body, "/v1/models/tiny/versions/3:classify")
    np.testing.assert_allclose(
        [[s for _, s in row] for row in answer["results"]], shares[[1, 1]], atol=1e-5
    )
    status, answer = running.predict({"examples": [{"images": (arrays[0] / 255).tolist()}]}, path)
    np.testing.assert_allclose([s for _, s in answer["results"][0]], shares[0], atol=1e-4)
    for body, match in (
        ({"instances": [b64(files[0])]}, "must have 'examples'"),
        ({"examples": [[1]]}, "must have 'examples'"),
        ({"context": {"bytes": 1}, "examples": [{"bytes": 2}]}, "must not be in 'examples'"),
        ({"examples": [{"bytes": b64(b"no image")}]}, "image 0 is no image"),
        (
            {"examples": [{"bytes": b64(files[0])}], "signature_name": "embed_bytes"},
            "no probabilities",
        ),
        ({"examples": [{"caption": "seaside"}]}, "takes the input 'bytes', not caption"),
    ):
        status, answer = running.predict(body, path)
        assert status == 400
        assert match in answer["error"]


IMAGE = np.zeros((2, 2, 3)).tolist()


def uint8(instances):
    return {"signature_name": "embed_uint8", "instances": instances}


@pytest.mark.parametrize(
    ("body", "status", "match"),
    [
        (b"{", 400, "no JSON"),
        (b"[" * 50_000, 400, "no JSON"),
        ([1], 400, "must be a JSON object"),
        ({}, 400, "either 'instances' or 'inputs'"),
        ({"instances": [IMAGE], "inputs": [IMAGE]}, 400, "either 'instances' or 'inputs'"),
        ({"instances": []}, 400, "no images"),
        ({"instances": 3}, 400, "must be lists"),
        ({"instances": [IMAGE], "signature_name": "mask"}, 400, "did you mean 'masks'"),
        ({"instances": [{"picture": IMAGE}]}, 400, "takes the input 'images', not picture"),
        ({"instances": [IMAGE, [[[1, 2]]]]}, 400, "all of one shape"),
        ({"instances": [["a"]]}, 400, "must be numbers"),
        ({"instances": [[1, 2, 3]]}, 400, r"must be [B,H,W,3], got shape [1, 3]"),
        ({"instances": [IMAGE, np.full((2, 2, 3), 9).tolist()]}, 400, "image 1 is not in 0..1"),
        ({"instances": [IMAGE] * 9}, 400, "9 images in one request, at most 8"),
        ({"instances": ["x"], "signature_name": "embed_bytes"}, 400, "image 0 must be"),
        ({"instances": [{"b64": "?"}], "signature_name": "embed_bytes"}, 400, "no base64"),
        (uint8([[[[1.5, 0, 0]]]]), 400, "must be whole numbers"),
        (uint8([[[["1", "0", "0"]]]]), 400, "must be numbers"),
        (uint8([[[[True, 0, 0]]]]), 400, "must be numbers"),
        (uint8([[[[256, 0, 0]]]]), 400, "image 0 is not in 0..255"),
        (b" " * 300_000, 413, "larger than this server takes"),
    ],
)
def test_mistakes_are_told_in_one_line(running, body, status, match):
    got, answer = running.predict(body)
    assert got == status
    assert match in answer["error"]
    assert "\n" not in answer["error"]
    assert running.ask("GET", "/healthz")[0] == 200


def test_wrong_addresses_and_methods(running):
    assert running.ask("GET", "/v1/models/other")[0] == 404
    assert running.ask("GET", "/../../etc/passwd")[0] == 404
    assert running.ask("GET", "/v1/models/tiny/versions/2")[0] == 404
    assert running.ask("GET", "/v1/models/tiny:predict")[0] == 405


def test_a_slow_request_is_ended_and_disturbs_nobody(running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
        slow.sendall(
            b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        )
        status, _ = running.predict({"instances": [IMAGE]})
        assert status == 200
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_an_image_too_large_to_unpack_is_not_unpacked(running, monkeypatch):
    from adios_tf.exporting import rest

    monkeypatch.setattr(rest, "MAX_PIXELS", 500)
    files = [tf.io.encode_png(np.zeros((side, side, 3), np.uint8)).numpy() for side in (20, 40)]
    body = {"signature_name": "embed_bytes", "instances": [b64(file) for file in files]}
    _, answer = running.predict(body)
    assert [row["ok"] for row in answer["predictions"]] == [True, False]


def test_concurrent_requests_share_batches(running, model):
    arrays, files = pictures()
    expected = [np.asarray(model.features(array[None])[0]) for array in arrays]
    before = running.ask("GET", "/healthz")[1]

    def ask(n):
        body = {"signature_name": "embed_bytes", "instances": [b64(files[n % 5])]}
        return running.predict(body)[1]["predictions"][0]["features"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(60)))
    for n, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected[n % 5], atol=1e-5)
    after = running.ask("GET", "/healthz")[1]
    assert after["images"] - before["images"] == 60
    assert after["batches"] - before["batches"] < 60


def test_the_page_and_what_it_asks_for(running, model):
    status, text = running.ask("GET", "/")
    assert status == 200
    assert "http" not in text.replace("http-equiv", "")
    for name in ("page.js", "page.css"):
        assert running.ask("GET", f"/{name}")[0] == 200
    arrays, files = pictures()
    status, found = running.ask("POST", "/look", files[2])
    assert status == 200
    near = found["neighbors"]
    assert len(near) == 5
    assert near[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert near[0]["title"] == "image 2"
    masks = model.masks(arrays[2][None])[0].numpy()
    assert found["coverage"] == pytest.approx(masks.mean((0, 1)), abs=1e-4)
    picture = Image.open(io.BytesIO(base64.b64decode(found["masks"][1].split(",")[1])))
    shown = np.asarray(picture)[::10, ::10] / 255
    np.testing.assert_allclose(shown, masks[..., 1], atol=0.003)
    status, answer = running.ask("POST", "/look", b"no image")
    assert status == 400
    assert "no image that can be read" in answer["error"]


def test_models_that_cannot_be_served(tiny_export, tmp_path):
    with pytest.raises(UserError, match="no SavedModel in"):
        Server(tmp_path)
    copy = shutil.copytree(tiny_export, tmp_path / "copy")
    (Path(copy) / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot read the SavedModel"):
        Server(copy)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="take another --port"):
            asyncio.run(serve(Server(tiny_export), "127.0.0.1", port, print))
