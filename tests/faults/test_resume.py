"""A run that is stopped anywhere and resumed leaves what one that never stopped leaves."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from adios_tf import pretrained
from adios_tf.cli import parse
from adios_tf.data import DatasetInfo, Examples
from adios_tf.data.in_memory import InMemory
from adios_tf.errors import Stopped
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.run_folder import RunFolder
from adios_tf.training import callbacks
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.run import pretrain

TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


def newest(run_dir):
    """{name: tensor} of the newest checkpoint."""
    folders = (run_dir / "checkpoints").glob("ckpt-*")
    folder = max(folders, key=lambda path: int(path.name.removeprefix("ckpt-")))
    reader = tf.train.load_checkpoint(str(folder / "weights"))
    names = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def records(run_dir):
    return [
        {k: v for k, v in record.items() if k not in TIMES}
        for record in RunFolder(run_dir).records()
    ]


def same(one, other):
    ours, theirs = newest(one), newest(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert records(one) == records(other)
    assert RunFolder(one).model_step() == RunFolder(other).model_step()
    encoders = (pretrained.load(path).encoder.get_weights() for path in (one, other))
    for a, b in zip(*encoders, strict=True):
        np.testing.assert_array_equal(a, b)


def stop_at(monkeypatch, owner, name, call, how, after=False):
    """Has the call-th call of a method end by `how()`, before or after what it does."""
    original, calls = getattr(owner, name), [0]

    def stopping(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call and not after:
            how()
        result = original(*args, **kwargs)
        if calls[0] == call and after:
            how()
        return result

    monkeypatch.setattr(owner, name, stopping)


def kill():
    raise Killed


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


EVERY = "--checkpoint_steps=1"
KILLS = {
    "inside an epoch": (callbacks.SaveCheckpoints, "save_open", 2, True),
    "after an epoch's last update": (callbacks.Guard, "on_epoch_end", 1, False),
    "between record and checkpoint": (callbacks.SaveCheckpoints, "on_epoch_end", 1, False),
    "between checkpoint and model": (callbacks.SaveCheckpoints, "on_epoch_end", 2, True),
}


def some_slow(cases, fast):
    """The fast ones run by default: each of a kind, at two whole runs apiece."""
    slow = pytest.mark.slow
    return [pytest.param(case, marks=() if case in fast else slow) for case in cases]


@pytest.mark.parametrize("where", some_slow(KILLS, ["between checkpoint and model"]))
def test_killed(tmp_path, monkeypatch, settings, whole, where):
    owner, name, call, after = KILLS[where]
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, owner, name, call, kill, after)
        with pytest.raises(Killed):
            pretrain(settings(run_dir, EVERY))
    pretrain(settings(run_dir, EVERY))
    same(run_dir, whole)


@pytest.mark.slow
def test_killed_inside_a_model_save(tmp_path, monkeypatch, settings, whole):
    """Between the two renames model/ is not there; the resumed run writes it."""
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, pretrained.Path, "rename", 5, kill)
        with pytest.raises(Killed):
            pretrain(settings(run_dir))
    pretrain(settings(run_dir))
    same(run_dir, whole)
    assert sorted(path.name for path in run_dir.glob("model*")) == ["model"]


STOPS = {
    "inside an update": (callbacks.Progress, "on_train_batch_end", 2),
    "inside the last update of an epoch": (callbacks.Progress, "on_train_batch_end", 3),
    "while an epoch is measured": (callbacks.Monitor, "_health", 1),
    "while a checkpoint is written": (Checkpoints, "save", 1),
}


@pytest.mark.parametrize("where", some_slow(STOPS, ["inside the last update of an epoch"]))
def test_stopped_by_a_signal(tmp_path, monkeypatch, settings, whole, where):
    owner, name, call = STOPS[where]
    run_dir = tmp_path / "run"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        stop_at(patch, owner, name, call, sigterm)
        with pytest.raises(Stopped, match="stopped by SIGTERM; repeat the command to go on"):
            pretrain(settings(run_dir))
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    updates = 2 if where == "inside an update" else 3
    assert int(newest(run_dir)["model_0000/.ATTRIBUTES/VARIABLE_VALUE"]) == updates
    pretrain(settings(run_dir))
    same(run_dir, whole)


# ---------------------------------------------------------------------- other methods

IMAGES, SIDE = 12, 16  # three batches of four
FLAGS = (
    "--plugins=tiny_encoder --backbone=tiny --image_size=16 --batch_size=4 --epochs=2 --seed=1 "
    "--warmup_epochs=1 --hidden_dim=8 --output_dim=4 --predictor_dim=4 --queue_size=10 "
    "--num_masks=2 --masker_base=4 --masker_blocks=2 --masker_norm=no --grid_size=4 "
    "--patch_size=4 --learning_rate=0.1 --checkpoint_steps=1 --picture_every=0 --devices=1"
).split()
METHODS = (  # tests/training/test_resume_methods.py has all of them, without what is around a step
    "--objective=moco --masking=unmix_blocks --fill=mix",
    "--objective=byol --masking=sequential_one --fill=noise",
    "--objective=simsiam --masking=objects --fill=erase",
)


@pytest.fixture(scope="module")
def images():
    """Labels for the probe, and object masks: random ones."""
    rng = np.random.default_rng(0)
    parts = {
        "image": rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8),
        "label": np.arange(IMAGES) % 2,
        "index": np.arange(IMAGES),
        "mask": rng.integers(0, 3, (IMAGES, SIDE, SIDE), np.int32),
    }
    data = tf.data.Dataset.from_tensor_slices(parts)
    info = DatasetInfo("memory:random", image_size=SIDE, num_classes=2)
    return InMemory(info, Examples(data, IMAGES, num_classes=2, has_masks=True))


@pytest.fixture
def eagerly(monkeypatch):
    compiled = Pretrainer.compile

    def compile_eagerly(model, *args, **kwargs):
        compiled(model, *args, **kwargs)
        model.run_eagerly = True

    monkeypatch.setattr(Pretrainer, "compile", compile_eagerly)
    monkeypatch.setattr(OnlineEvaluator, "__init__", lambda *_: None)  # has no such data set


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_resumes_equal_none(tmp_path, monkeypatch, images, eagerly, method):
    """Killed inside both epochs. Eagerly: it is about saved state and draws, not the graph."""

    def run(name):
        flags = [*FLAGS, *method.split(), f"--run_dir={tmp_path / name}"]
        pretrain(parse(PretrainConfig, flags), images)

    run("whole")
    for update in (2, 3):  # of the first run; then of the one resumed after update 2: update 5
        with monkeypatch.context() as patch:
            stop_at(patch, callbacks.SaveCheckpoints, "on_train_batch_end", update, kill, True)
            with pytest.raises(Killed):
                run("killed")
    run("killed")
    same(tmp_path / "killed", tmp_path / "whole")
