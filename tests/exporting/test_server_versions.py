"""A folder of versions, as TensorFlow Serving takes it: the newest good one is served."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")

from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.errors import UserError
from adios_tf.exporting.reference_set import read_reference
from adios_tf.exporting.saved_model import save_model
from adios_tf.exporting.server import Server

IMAGE = np.full((1, 16, 16, 3), 0.25)
MODEL = "/v1/models/tiny"


@pytest.fixture(scope="module")
def other_export(tmp_path_factory):
    info = {"image_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3, "dataset": "shapes"}
    encoder = build_encoder("convnet_small", 16, width=0.5)
    folder = tmp_path_factory.mktemp("other") / "1"
    return save_model(pretrained.PretrainedModel(info, encoder), folder)


def features(export):
    return tf.saved_model.load(str(export)).signatures["serving_default"](
        images=tf.constant(IMAGE, tf.float32)
    )["features"]


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def arrives(export, folder):
    """A version as bin/export.py leaves it: the folder appears once it is complete."""
    fresh = shutil.copytree(export, folder.with_name("fresh"))
    fresh.rename(folder)


def test_versions_come_break_and_go(tiny_export, other_export, serving, tmp_path, capfd):
    models, images = tmp_path / "models", tmp_path / "images"
    for number in ("1", "0002"):
        shutil.copytree(tiny_export, models / number)
    (models / "notes").mkdir()
    images.mkdir()
    file = tf.io.encode_png(np.full((16, 16, 3), 64, np.uint8)).numpy()
    (images / "a.png").write_bytes(file)
    reference = partial(read_reference, str(images))
    running = serving(Server(models, "tiny", reference=reference, poll_seconds=0.1))

    def states():
        found = running.ask("GET", MODEL)[1]["model_version_status"]
        return {one["version"]: one["state"] for one in found}

    def answers(body=None):
        status, answer = running.predict(body or {"instances": IMAGE.tolist()})
        assert status == 200
        return np.array(answer["predictions"])

    def near():
        return running.ask("POST", "/look", file)[1]["neighbors"][0]["similarity"]

    first, second = (np.asarray(features(export)) for export in (tiny_export, other_export))
    assert np.abs(first - second).max() > 0.1
    assert states() == {"2": "AVAILABLE"}  # the newest, by number
    np.testing.assert_allclose(answers(), first, atol=1e-5)
    assert near() == pytest.approx(1, abs=1e-4)

    # Broken: named once, the one before goes on.
    broken = shutil.copytree(other_export, tmp_path / "broken")
    file_name = Path("variables") / "variables.data-00000-of-00001"
    whole = (broken / file_name).read_bytes()
    (broken / file_name).write_bytes(whole[:100])
    broken.rename(models / "3")
    until(lambda: states().get("3") == "END")
    time.sleep(0.5)
    said = [line for line in capfd.readouterr().out.splitlines() if "version 3" in line]
    assert len(said) == 1
    assert "left out: cannot read the SavedModel" in said[0]
    np.testing.assert_allclose(answers(), first, atol=1e-5)
    status, answer = running.ask("GET", f"{MODEL}/versions/3")
    assert answer["model_version_status"][0]["status"]["error_code"] == "UNKNOWN"
    assert running.predict({}, f"{MODEL}/versions/3:predict")[0] == 404

    # Mended, and swapped in under load: every request gets an answer, of one model or the other.
    stop = time.monotonic() + 60

    def client(_):
        seen = []
        while time.monotonic() < stop and (not seen or seen[-1] == 0 or len(seen) < 20):
            got = answers()
            right = [np.allclose(got, known, atol=1e-5) for known in (first, second)]
            assert any(right)
            seen.append(right.index(True))
        return seen

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, n) for n in range(4)]
        time.sleep(0.2)
        (models / "3" / file_name).write_bytes(whole)
        for one in clients:
            seen = one.result()
            assert seen == sorted(seen)  # never back to the old one
            assert seen[-1] == 1
    assert states() == {"2": "END", "3": "AVAILABLE"}
    assert near() == pytest.approx(1, abs=1e-4)  # the reference set has been embedded anew
    np.testing.assert_allclose(answers(), second, atol=1e-5)
    status, answer = running.predict({"instances": IMAGE.tolist()}, f"{MODEL}/versions/2:predict")
    assert status == 404
    assert "version 2 is not served: 3 is" in answer["error"]
    path = f"{MODEL}/versions/3"
    assert running.ask("GET", f"{path}/metadata")[1]["model_spec"]["version"] == "3"
    assert running.predict({"instances": IMAGE.tolist()}, f"{path}:predict")[0] == 200

    # Back to the one before: the newest folder goes away.
    shutil.rmtree(models / "3")
    arrives(tiny_export, models / "1000000")
    until(lambda: states().get("1000000") == "AVAILABLE")
    shutil.rmtree(models / "1000000")
    until(lambda: states()["2"] == "AVAILABLE")
    assert states()["1000000"] == "END"
    np.testing.assert_allclose(answers(), first, atol=1e-5)


def test_a_folder_without_a_good_version_is_refused(other_export, tmp_path, capsys):
    with pytest.raises(UserError, match=r"no SavedModel in .* that can be served"):
        Server(tmp_path)
    copy = shutil.copytree(other_export, tmp_path / "7")
    (copy / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match="that can be served"):
        Server(tmp_path)
    assert "version 7 is left out: cannot read" in capsys.readouterr().out


def test_a_model_whose_numbers_are_not_finite_is_left_out(other_export, tmp_path, monkeypatch):
    from adios_tf.exporting import rest

    def poisoned(folder):
        found = original(folder)
        bad = found["embed_bytes"]._replace(call=lambda rows: {"features": np.array([[np.nan]])})
        return found | {"embed_bytes": bad}

    original = rest.load_signatures
    monkeypatch.setattr(rest, "load_signatures", poisoned)
    with pytest.raises(UserError, match="embed_bytes gives numbers that are not finite"):
        Server(other_export)
