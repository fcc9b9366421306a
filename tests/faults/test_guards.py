"""Faults inside a training: what is said, and what is left."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from adios_tf.errors import UserError
from adios_tf.run_folder import RunFolder
from adios_tf.training import run as module
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.run import pretrain


def goes_wrong(config, monkeypatch, spoil):
    """Trains with spoil(batch number from 0, batch); returns the line that ends it."""
    made = module.training_batches

    def spoilt(*args):
        return made(*args).enumerate().map(spoil)

    monkeypatch.setattr(module, "training_batches", spoilt)
    with pytest.raises(UserError) as caught:
        pretrain(config)
    monkeypatch.setattr(module, "training_batches", made)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nan_in_view2(n, batch):
    return batch | {"view2": tf.where(n == 1, np.float32("nan"), batch["view2"])}


def test_nan_in_a_batch_of_the_first_epoch_stops(settings, tmp_path, monkeypatch):
    line = goes_wrong(settings(tmp_path / "new"), monkeypatch, nan_in_view2)
    assert "training diverged and was stopped; no checkpoint had been written yet" in line
    assert "--replay=3 names the input or layer" in line
    assert RunFolder(tmp_path / "new").records() == []
    assert not Checkpoints.steps_in(tmp_path / "new" / "checkpoints")


@pytest.mark.slow
def test_nan_in_a_batch_keeps_what_was_saved(whole, settings, tmp_path, monkeypatch):
    run = shutil.copytree(whole, tmp_path / "old")
    more = settings(run, "--epochs=3", "--allow_changes=epochs")
    line = goes_wrong(more, monkeypatch, nan_in_view2)
    assert "the last checkpoint, ckpt-6, is from before" in line
    assert list(Checkpoints.steps_in(run / "checkpoints")) == [3, 6]
    assert len(RunFolder(run).records()) == 2
    assert pretrain(more)["epochs"] == 3  # the data are mended


def test_nan_in_a_gradient_stops(settings, tmp_path, monkeypatch):
    """The losses of the epoch are finite; the gradient of its last update is not."""
    inputs = keras.Input((16, 16, 3))
    features = keras.layers.Conv2D(6, 3, strides=4)(inputs)
    encoder = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(features))
    made = module.prepare

    def spoilt(config, *_):
        *others, model = made(config, None, encoder)
        norm = model._descend_encoder

        def descend(result):
            factor = tf.where(model.step == 2, np.float32("nan"), 1.0)
            gradients = [gradient * factor for gradient in result.encoder]
            return norm(result._replace(encoder=gradients))

        model._descend_encoder = descend
        return *others, model

    monkeypatch.setattr(module, "prepare", spoilt)
    with pytest.raises(UserError, match="encoder_gradient_norm is nan in epoch 1: training div"):
        pretrain(settings(tmp_path / "run"))
    assert not Checkpoints.steps_in(tmp_path / "run" / "checkpoints")


@pytest.mark.slow
def test_images_of_one_color_are_named(settings, tmp_path, capsys):
    folder = tmp_path / "images"
    for n in range(16):
        (folder / f"{n % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (9 * n, 5, 200)).save(folder / f"{n % 2}" / f"{n}.png")
    pretrain(settings(tmp_path / "run", f"--dataset={folder}", "--epochs=1"))
    [line] = [one for one in capsys.readouterr().out.splitlines() if "constant_images" in one]
    assert line.startswith("epoch 1: constant_images 1 (healthy ≤ 0.05): images without contrast")


@pytest.mark.slow
def test_uniform_masks_are_named_in_the_third_epoch(settings, tmp_path, capsys, monkeypatch):
    """A masker whose weights are zero, and whose gradient is zero for that reason."""
    made = module.prepare

    def spoilt(*args):
        *others, model = made(*args)
        masker = model.masking.masker
        masker.set_weights([np.zeros_like(weight) for weight in masker.get_weights()])
        return *others, model

    monkeypatch.setattr(module, "prepare", spoilt)
    masker = "--masking=adversarial --num_masks=3 --masker_base=8 --masker_blocks=2".split()
    pretrain(settings(tmp_path / "run", *masker, "--nostop_on_collapse", "--epochs=4"))
    lines = [one for one in capsys.readouterr().out.splitlines() if "(healthy " in one]
    print("\n".join(lines))
    assert all(line.startswith("epoch 3: ") for line in lines)
    named = {line.split()[2] for line in lines}
    assert {"mask_sharpness", "mask_variation", "overlap", "masker_gradient_norm"} <= named
