"""--replay repeats an update to the bit, and names where a number that is none comes from."""

import shutil

import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.training import replay as module
from adios_tf.training.replay import replay


def test_an_update_is_repeated_to_the_bit(whole, settings, capsys):
    """From a checkpoint, and from fresh weights: the bits of the run's own checkpoint."""
    before = {f: f.read_bytes() for f in whole.rglob("*") if f.is_file()}
    found = replay(settings(whole, "--replay=6", "--seed=9"))  # the run's own seed holds
    assert (found["from"], found["same_as_checkpoint"], found["not_finite"]) == (3, True, None)
    assert found["encoder_gradient_norm"] > 0
    assert found["weights"] in capsys.readouterr().out
    first = replay(settings(whole, "--replay=3"))
    assert (first["from"], first["same_as_checkpoint"]) == (0, True)
    assert first["weights"] != found["weights"]
    assert {f: f.read_bytes() for f in whole.rglob("*") if f.is_file()} == before


def test_what_is_not_finite_is_named(whole, settings, monkeypatch):
    made = module.prepare

    def spoilt(name):
        def prepare(config):
            *others, model = made(config)
            layer = model.objective.encoder.layers[1]
            call = layer.call
            if name == "output":
                layer.call = lambda x: call(x) * np.float32("nan")
            return *others, model

        return prepare

    monkeypatch.setattr(module, "prepare", spoilt("output"))
    found = replay(settings(whole, "--replay=4"))
    assert "layer" in found["not_finite"]
    assert "conv2d" in found["not_finite"]

    monkeypatch.setattr(module, "prepare", made)
    batches = module.training_batches

    def with_nan(*args):
        def blank(batch):
            return batch | {"view2": batch["view2"] * np.float32("nan")}

        return batches(*args).map(blank)

    monkeypatch.setattr(module, "training_batches", with_nan)
    assert replay(settings(whole, "--replay=4"))["not_finite"] == "input view2"


def test_what_cannot_be_replayed(whole, settings, tmp_path):
    with pytest.raises(UserError, match="holds no run to replay"):
        replay(settings(tmp_path / "none", "--replay=1"))
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    with pytest.raises(UserError, match="--replay=7: the run has 6 updates"):
        replay(settings(copy, "--replay=7"))
