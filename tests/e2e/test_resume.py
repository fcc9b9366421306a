"""A run that is killed at a random moment and resumed ends as if it had never stopped."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from adios_tf.reporting.tables import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--dataset=shapes",
    "--train_images=256",
    "--batch_size=32",
    "--epochs=2",
    "--backbone=convnet_small",
    "--objective=byol",
    "--masking=adversarial_one",
    "--hidden_dim=32",
    "--output_dim=16",
    "--predictor_dim=16",
    "--num_masks=2",
    "--masker_base=8",
    "--warmup_epochs=1",
    "--optimizer=lars",
    "--learning_rate=0.05",
    "--knn_train_images=64",
    "--knn_test_images=64",
    "--picture_every=0",
    "--checkpoint_steps=1",
    "--seed=4",
]


def start(run_dir):
    command = [sys.executable, "bin/pretrain.py", *FLAGS, f"--run_dir={run_dir}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out[-3000:]
    return out


def state(run_dir):
    folders = (run_dir / "checkpoints").glob("ckpt-*")
    newest = max(folders, key=lambda path: int(path.name.removeprefix("ckpt-")))
    reader = tf.train.load_checkpoint(str(newest / "weights"))
    names = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
    return {n: reader.get_tensor(n) for n in names}


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted, victim = start(whole), start(killed)
    deadline = time.monotonic() + 400
    while not list((killed / "checkpoints").glob("ckpt-*")):
        assert victim.poll() is None, victim.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(random.uniform(0, 1))  # anywhere, also in the middle of writing a checkpoint
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    out = finish(start(killed))
    finish(uninterrupted)
    one, other = state(whole), state(killed)
    assert one.keys() == other.keys()
    assert len(one) > 50
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    times = ("seconds", "images_per_second")
    mine, theirs = (
        [{k: v for k, v in r.items() if k not in times} for r in read_jsonl(run / "metrics.jsonl")]
        for run in (killed, whole)
    )
    assert mine == theirs
    assert [record["epoch"] for record in mine] == [1, 2]
    assert (
        json.loads((killed / "summary.json").read_text())["knn_trained"]
        == (json.loads((whole / "summary.json").read_text())["knn_trained"])
    )
    assert "resuming" in out
