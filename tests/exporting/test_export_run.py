"""Formats and the model card."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import adios_tf
from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.errors import UserError
from adios_tf.exporting import formats
from adios_tf.exporting.formats import export_run
from adios_tf.nets import build_unet

ROOT = Path(__file__).resolve().parents[2]
SIDE = 16
INFO = {"image_size": SIDE, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "dataset": "shapes"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    unet = build_unet(SIDE, 3, base=8)
    images = keras.Input((SIDE, SIDE, 3))
    masker = keras.Model(images, keras.layers.Softmax()(unet(images)))
    encoder = build_encoder("convnet_small", SIDE, width=0.5)
    pretrained.save(folder / "model", INFO | {"commit": "abc123"}, encoder, None, masker)
    (folder / "flags.txt").write_text("--dataset=shapes\n--epochs=3\n")
    (folder / "summary.json").write_text(json.dumps({"knn_trained": 0.8125, "note": "x"}))
    rows = [{"protocol": "linear", "variant": "", "metric": "top1", "value": 0.75}]
    results = folder / "evaluation" / "shapes" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps({"run": "r", "rows": rows}))
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, SIDE, SIDE, 3)).astype("f4")


def test_several_formats_and_the_card(run, images, tmp_path):
    out = tmp_path / "out"
    done = export_run(run, out, ["keras", "weights", "saved_model"])
    assert not done.failed
    model = adios_tf.load(run)
    encoder = keras.models.load_model(out / "encoder.keras")
    np.testing.assert_allclose(encoder(images), model.features(images), atol=1e-5)
    masker = keras.models.load_model(out / "masker.keras")
    np.testing.assert_allclose(masker(images), model.masks(images), atol=1e-5)
    twin = build_encoder("convnet_small", SIDE, width=0.5)
    twin.load_weights(out / "encoder.weights.h5")
    np.testing.assert_array_equal(twin.get_weights()[0], model.encoder.get_weights()[0])
    assert tf.saved_model.contains_saved_model(out)

    card, known = (out / "README.md").read_text(), json.loads((out / "model.json").read_text())
    for part in ("abc123", "knn_trained | 0.812", "top1 | 0.750", "--epochs=3", "`masks_bytes`"):
        assert part in card
    assert "`classify`" not in card
    assert known["info"]["commit"] == "abc123"
    assert known["evaluations"]["shapes"]["rows"][0]["value"] == 0.75
    assert set(known["files"]) >= {"saved_model.pb", "encoder.keras", "masker.weights.h5"}


def test_litert(run, images, tmp_path):
    import warnings

    export_run(run, tmp_path / "out", ["litert"])
    model = adios_tf.load(run)
    for name, expected in (("encoder", model.features(images)), ("masker", model.masks(images))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = tf.lite.Interpreter(str(tmp_path / "out" / f"{name}.tflite"))
        place = reader.get_input_details()[0]["index"]
        reader.resize_tensor_input(place, images.shape)
        reader.allocate_tensors()
        reader.set_tensor(place, images)
        reader.invoke()
        answer = reader.get_tensor(reader.get_output_details()[0]["index"])
        np.testing.assert_allclose(answer, expected, atol=1e-4)


def test_onnx(run, images, tmp_path):
    for package in ("tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}, which is not installed")
    import onnxruntime

    export_run(run, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "out" / "encoder.onnx")
    answer = session.run(None, {"images": images})[0]
    np.testing.assert_allclose(answer, adios_tf.load(run).features(images), atol=1e-4)


def test_a_format_that_cannot_be_had_is_one_line_and_the_others_are_written(
    run, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    done = export_run(run, tmp_path / "out", ["onnx", "weights"])
    assert "needs the package tf2onnx" in done.failed["onnx"]
    assert "\n" not in done.failed["onnx"]
    assert (tmp_path / "out" / "encoder.weights.h5").exists()

    class Converter:
        def convert(self):
            raise RuntimeError("no such op\nand more")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_concrete_functions", lambda *_: Converter())
    with pytest.raises(UserError, match="litert cannot be had for this model here: no such op"):
        formats.write_litert(adios_tf.load(run), tmp_path)


def test_mistakes(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    for source, out, names, match in (
        (run, tmp_path, ["weights"], "is not empty"),
        (tmp_path, tmp_path / "new", ["weights"], "no pretrained model"),
        (run, tmp_path / "new", ["weights", "kers"], "did you mean 'keras'"),
        (run, tmp_path / "new", [], "name a format"),
    ):
        with pytest.raises(UserError, match=match):
            export_run(source, out, names)
    assert not (tmp_path / "new").exists()


def test_the_program(run, tmp_path):
    out = tmp_path / "out"
    flags = [f"--run={run}", f"--out={out}", "--format=weights,onnx"]
    program = (
        "import sys, runpy; sys.modules['tf2onnx'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, ROOT / "bin" / "export.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert str(out / "encoder.weights.h5") in done.stdout
    assert done.stderr.splitlines()[-1].startswith("export.py: --format=onnx needs the package")
    assert "Traceback" not in done.stderr
