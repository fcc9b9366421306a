"""Images of one's own, from a folder to an export, by the command line and no setting but it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adios_tf.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
MINUTES = float(os.environ.get("OWN_IMAGES_MINUTES", "0.5"))  # issue: 2, on a free machine


def program(name: str, *flags: str, cwd: Path) -> str:
    command = [sys.executable, str(ROOT / "bin" / f"{name}.py"), *flags]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write(folder: Path, sizes: list[tuple[int, int]], broken: int = 0) -> None:
    """Smooth random pictures of these sizes (height, width), and files that are no pictures."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for n, (height, width) in enumerate(sizes):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        ending = "png" if height < 100 else "jpg"
        small.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{n:03d}.{ending}")
    for n in range(broken):
        (folder / f"broken{n}.jpg").write_bytes(b"\xff\xd8\xff nothing more")


FOLDERS = {  # name: sizes, broken files, side that is chosen
    "small": ([(32, 32)] * 200, 0, 32),
    "photos": ([(500, 400), (375, 500)] * 40, 0, 96),
    "mixed": ([(40, 60), (70, 50), (130, 130), (300, 200)] * 20, 3, 96),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_trains_and_is_used_without_another_setting(name, tmp_path):
    sizes, broken, side = FOLDERS[name]
    write(tmp_path / name, sizes, broken)
    flags = [f"--dataset={name}", f"--max_minutes={MINUTES}", "--skip_broken"]
    started = time.perf_counter()
    said = program("pretrain", *flags, cwd=tmp_path)
    seconds = time.perf_counter() - started
    run = RunFolder(tmp_path / "runs" / name)
    settings = run.settings()
    for flag in ("image_size", "mean", "std", "backbone", "batch_size", "optimizer", "epochs"):
        assert re.search(rf"^--{flag}={re.escape(settings[flag])} +\S", said, re.MULTILINE), flag
    assert settings["image_size"] == str(side)
    assert ("left out 3 unreadable images" in said) == bool(broken)
    assert len(run.records()) == int(settings["epochs"])
    assert "feature_spread" in run.records()[-1]
    assert run.report.exists()
    print(f"{name}: {seconds:.0f} s for --max_minutes={MINUTES:g}")

    where = f"--run=runs/{name}"
    evaluated = program("evaluate", where, "--skip_broken", cwd=tmp_path)
    assert "left out knn, linear, clustering" in evaluated
    assert "feature_spread" in evaluated
    program("embed", where, f"--images={name}", "--out=x.npz", "--skip_broken", cwd=tmp_path)
    with np.load(tmp_path / "x.npz") as found:
        assert len(found["names"]) == len(found["features"]) == len(sizes)
        assert len(found["broken"]) == broken
    program("masks", where, f"--images={name}", "--out=masks", cwd=tmp_path)
    assert len(list((tmp_path / "masks" / "png").iterdir())) == len(sizes)
    program("export", where, "--out=model", cwd=tmp_path)
    assert (tmp_path / "model" / "saved_model.pb").exists()
    again = ["--model=model", f"--images={name}", "--out=y.npz", "--skip_broken"]
    program("embed", *again, cwd=tmp_path)
    with np.load(tmp_path / "x.npz") as one, np.load(tmp_path / "y.npz") as other:
        np.testing.assert_allclose(one["features"], other["features"], atol=1e-4)


COMPONENTS = '''
"""An encoder, an objective, a masking and a fill, with a parameter each."""
import keras
import tensorflow as tf
from adios_tf import distribution, losses, masking, nets, objectives
from adios_tf.encoders import BACKBONES


@keras.saving.register_keras_serializable("mine")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=shape[-1:], initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


@BACKBONES.register("scaled", "a convolution and a layer of my own")
def scaled(name, image_size, in_channels, plan, *, width: int = 8):
    images = keras.Input((image_size, image_size, in_channels))
    x = keras.layers.ReLU()(keras.layers.Conv2D(width, 4, 4)(images))
    return keras.Model(images, Scale()(x), name=name)


@objectives.OBJECTIVES.register("vicreg", "variance and invariance (Bardes 2022)")
@keras.saving.register_keras_serializable("mine")
class VICReg(objectives.Objective):
    def __init__(self, encoder, hidden_dim=64, output_dim=32, var_weight: float = 1.0, **kwargs):
        projector = nets.build_projector("simclr", encoder.output_shape[-1], hidden_dim, output_dim)
        super().__init__(encoder, projector, **kwargs)
        self.var_weight = var_weight

    def embed(self, images, query, key, training=True):
        features = self.encoder(images, training=training)
        embedding = self.projector(features, training=training)
        return objectives.Embedding(features, embedding, embedding)

    def distance(self, query, key):
        std = tf.math.reduce_std(distribution.gather(query.query), axis=0)
        spread = tf.reduce_mean(tf.nn.relu(1.0 - std))
        near = tf.reduce_mean((query.query - key.key) ** 2, axis=1)
        return near + self.var_weight * spread


@masking.MASKINGS.register("bar", "one bar at a fixed place")
class Bar(masking.Masking):
    def __init__(self, share: float = 0.25):
        super().__init__()
        self.share = share

    def masks(self, images, truth, seed, training=True):
        rows = tf.range(images.shape[1])[None, :, None, None]
        hidden = tf.cast(rows < int(self.share * images.shape[1]), tf.float32)
        return tf.broadcast_to(hidden, [*tf.unstack(tf.shape(images)[:3]), 1])


@masking.FILLS.register("gray", "one gray")
class Gray(masking.Paint):
    def __init__(self, level: float = 0.0):
        super().__init__()
        self.level = level

    def paint(self, images, seed):
        return tf.fill(tf.shape(images), self.level)
'''


@pytest.mark.slow
def test_own_components_go_through_every_program(tmp_path, folder):
    """From one file, with a parameter of each: pretrain, evaluate, export and study."""
    (tmp_path / "mine.py").write_text(COMPONENTS)
    common = f"""--plugins=mine --dataset={folder} --backbone=scaled --objective=vicreg
    --image_size=16 --hidden_dim=8 --output_dim=8 --batch_size=8 --epochs=1 --learning_rate=0.01
    --optimizer=sgd --warmup_epochs=0 --set=var_weight=2,width=6""".split()
    own = ["--masking=bar", "--set=share=0.5", "--fill=gray", "--set=level=0.25"]
    program("pretrain", *common, *own, "--run_dir=run", cwd=tmp_path)
    recorded = RunFolder(tmp_path / "run").settings()["set"]
    assert recorded == "var_weight=2,width=6,share=0.5,level=0.25"
    # These import the plugin by what the run's flags.txt says.
    assert "top1" in program("evaluate", "--run=run", "--protocols=knn", "--knn_k=3", cwd=tmp_path)
    program("export", "--run=run", "--out=model", "--format=saved_model,keras", cwd=tmp_path)
    program("embed", "--run=run", f"--images={folder}", "--out=x.npz", cwd=tmp_path)
    export = ["--model=model", "--plugins=mine"]  # of an export nothing tells the plugin
    program("embed", *export, f"--images={folder}", "--out=y.npz", cwd=tmp_path)
    with np.load(tmp_path / "x.npz") as one, np.load(tmp_path / "y.npz") as other:
        assert one["features"].shape == (24, 6)
        np.testing.assert_allclose(one["features"], other["features"], atol=1e-5)

    masked = ["--masking=adversarial", "--fill=gray", "--num_masks=2", "--masker_base=8"]
    program("pretrain", *common, *masked, "--run_dir=masked", cwd=tmp_path)
    program("masks", "--run=masked", f"--images={folder}", "--out=masks", cwd=tmp_path)
    assert (tmp_path / "masks" / "index.html").exists()

    (tmp_path / "base.flags").write_text("\n".join([*common, *own]) + "\n")
    sweep = "--sweep=--set=share=0.25,0.5"
    study = ["--base=base.flags", sweep, "--seeds=0", "--out=study", "--rounds=0"]
    said = program("study", *study, cwd=tmp_path)
    rows = json.loads((tmp_path / "study" / "study.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["set=share=0.25", "set=share=0.5"]
    assert "set=share=0.25" in said
