"""Presets of the published protocols: what they set, what wins over them, and that it arrives."""

import keras
import numpy as np
import pytest

from adios_tf import cli, pretrained
from adios_tf.encoders.backbones import build_encoder
from adios_tf.encoders.variants import at_side, with_cifar_stem
from adios_tf.errors import UserError
from adios_tf.evaluation import protocols
from adios_tf.evaluation.config import EvaluateConfig, command
from adios_tf.evaluation.context import EvaluationContext
from adios_tf.evaluation.presets import image_settings
from adios_tf.evaluation.runner import evaluate

RUN = {"image_size": 64, "mean": (0.1, 0.2, 0.3), "std": (0.2, 0.2, 0.2)}
SMALL = {"train_images": 40, "test_images": 30}


def parse(*lines):
    return cli.parse(EvaluateConfig, ["--run=r", "--dataset=stl10", *lines])


def test_what_is_given_wins_even_if_it_is_the_default():
    assert parse().sgd_standardize
    found = parse("--protocol_preset=adios", "--interpolation=bicubic", "--sgd_decay_epochs=3")
    assert (found.interpolation, found.sgd_decay_epochs) == ("bicubic", (3,))
    assert (found.sgd_optimizer, found.finetune_learning_rate) == ("lars", 0.5)
    assert not found.sgd_standardize
    given = {"interpolation": "bicubic", "sgd_decay_epochs": (3,), "protocol_preset": "adios"}
    assert found == EvaluateConfig.of(run="r", dataset="stl10", **given)
    line = command(found, ("linear_sgd",), protocols=("linear_augmented",))
    wanted = "--run=r --protocols=linear_augmented --protocol_preset=adios --dataset=stl10"
    # Bicubic is the default, but not that of the preset: the command has to say it.
    assert line.split(" ", 2)[2] == f"{wanted} --interpolation=bicubic --sgd_decay_epochs=3"
    with pytest.raises(UserError, match="did you mean 'adios'"):
        parse("--protocol_preset=adio")


IMAGENET = ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
CIFAR = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
STL10 = ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261))
PREPARED = {  # side, normalization, way, share that is kept, stem in fine-tuning
    ("none", "cifar100"): (64, RUN["mean"], RUN["std"], "squash", 0.875, "keep"),
    ("adios", "cifar10"): (32, *CIFAR, "squash", 0.875, "adios_cifar"),
    ("adios_32bit", "cifar100"): (32, *CIFAR, "squash", 0.875, "adios_cifar"),
    ("adios", "stl10"): (96, *STL10, "squash", 0.875, "keep"),
    ("adios", "imagenet100s"): (96, *IMAGENET, "center_crop", 96 / 256, "keep"),
    ("adios", "imagenet2012"): (224, *IMAGENET, "center_crop", 224 / 256, "keep"),
    ("adios", "shapes"): (64, RUN["mean"], RUN["std"], "squash", 0.875, "keep"),
    ("mixmask", "imagenet2012"): (
        *(64, IMAGENET[0], (0.229, 0.224, 0.225)),
        *("center_crop", 0.875, "keep"),
    ),
}


@pytest.mark.parametrize("case", PREPARED, ids="-".join)
def test_images_are_prepared_as_published(case):
    config = EvaluateConfig.of(run="r", protocol_preset=case[0], dataset=case[1])
    assert tuple(image_settings(config, RUN).values()) == PREPARED[case]
    given = EvaluateConfig.of(
        protocol_preset=case[0], dataset=case[1], image_size=16, crop_ratio=0.5, std=(1.0,) * 3
    )
    found = image_settings(given, RUN)
    assert (found["image_size"], found["crop_ratio"], found["std"]) == (16, 0.5, (1.0,) * 3)


# What the official programs are called with; the keywords of our functions.
PROBE = {
    "adios": {
        **{"optimizer": "lars", "eta": 1e-3, "clip": False, "weight_decay": 0.0},
        **{"head": "uniform", "standardize": False, "drop_last": True, "report": "last"},
        "arguments": ((0.1,), 100, (60, 80), 128),
    },
    "mixmask": {
        **{"optimizer": "sgd", "eta": 1e-3, "clip": False, "weight_decay": 0.0},
        **{"head": "normal", "standardize": False, "drop_last": False, "report": "best"},
        "arguments": ((30.0,), 100, (60, 80), 256),
    },
}
PROBE["adios_32bit"] = PROBE["adios"] | {"optimizer": "sgd"}
TUNING = {
    **{"optimizer": "lars", "eta": 1e-3, "clip": False, "per_epoch": True},
    **{"head": "uniform", "batchnorm": "frozen"},
    **{"learning_rate": 0.5, "warmup_epochs": 10.0, "weight_decay": 5e-4},
    "arguments": (200,),  # epochs
}
TUNING_32BIT = TUNING | {"optimizer": "sgd", "weight_decay": 0.0}


class Called(Exception):
    pass


@pytest.mark.parametrize("preset", PROBE)
def test_the_settings_arrive(run, monkeypatch, preset):
    def seen(*arguments, seed=None, **keywords):
        raise Called(arguments, keywords)

    config = EvaluateConfig.of(
        run=str(run), dataset="shapes", protocol_preset=preset, train_images=300, test_images=30
    )
    context = EvaluationContext(config, pretrained.load(run))
    assert context.spec.interpolation == "bilinear"
    assert config.sgd_min_scale == 0.08
    monkeypatch.setattr(protocols.probes, "sgd_probe", seen)
    with pytest.raises(Called) as caught:
        next(protocols.PROTOCOLS["linear_augmented"](context))
    arguments, keywords = caught.value.args
    assert keywords | {"arguments": arguments[4:8]} == PROBE[preset]
    monkeypatch.setattr(protocols, "fine_tune", seen)
    if preset == "mixmask":
        with pytest.raises(UserError, match="published no fine-tuning"):
            next(protocols.PROTOCOLS["finetune"](context))
        return
    with pytest.raises(Called) as caught:
        next(protocols.PROTOCOLS["finetune"](context))
    arguments, keywords = caught.value.args
    wanted = TUNING if preset == "adios" else TUNING_32BIT
    assert keywords | {"arguments": arguments[4:]} == wanted
    assert arguments[2] == 2  # 300 images make two whole batches of 128
    assert arguments[1].cardinality() == 200 * 2


def test_a_preset_runs_and_says_what_it_set(run, tmp_path, capsys):
    few = {"sgd_epochs": 2, "finetune_epochs": 2, "finetune_warmup_epochs": 1.0}
    few |= {"sgd_batch_size": 16, "finetune_batch_size": 16} | SMALL
    config = EvaluateConfig.of(
        run=str(run), dataset="shapes", protocol_preset="adios", out=str(tmp_path), **few
    )
    rows = {(row.protocol, row.metric): row for row in evaluate(config)}
    assert [key[0] for key in rows] == ["linear_augmented"] * 2 + ["finetune"] * 2
    shown = capsys.readouterr().out
    assert "--protocol_preset=adios sets" in shown
    assert "sgd_optimizer=lars" in shown
    given = shown.split("given otherwise: ")[1].split("\n")[0].split(", ")
    assert set(given) == set(few) - set(SMALL)
    settings = rows["linear_augmented", "top1"].settings
    assert (settings["normalization"], settings["solver"]) == ("none", "LARS, batch 16")
    assert settings["image"] == "32 px, squash, bilinear"
    tuned = rows["finetune", "top1"]
    assert (tuned.settings["BatchNorm"], tuned.settings["optimizer"]) == ("frozen", "lars")
    assert "--protocol_preset=adios" in tuned.command
    assert "--finetune_optimizer" not in tuned.command


def resnet(side, **choices):
    keras.utils.set_random_seed(0)
    return build_encoder("resnet18", side, stem="imagenet", padding="torch", **choices)


def test_an_encoder_at_another_side_and_with_the_stem_for_cifar():
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    old = resnet(96)
    small = at_side(old, 32)
    alike = resnet(32)
    alike.set_weights(old.get_weights())
    np.testing.assert_allclose(small(images), alike(images), atol=1e-5)
    assert at_side(small, 32) is small
    changed = with_cifar_stem(small, seed=3)
    keras.utils.set_random_seed(1)
    wanted = build_encoder("resnet18", 32, stem="adios_cifar", padding="torch")
    for layer in wanted.layers:
        layer.set_weights(
            (changed if layer.name == "conv1_conv" else old).get_layer(layer.name).get_weights()
            if layer.weights
            else []
        )
    np.testing.assert_allclose(changed(images), wanted(images), atol=1e-5)
    kernel = changed.get_layer("conv1_conv").kernel.numpy()
    assert kernel.shape == (3, 3, 3, 64)
    bound = 27**-0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    other = with_cifar_stem(small, seed=4).get_layer("conv1_conv").kernel.numpy()
    assert np.abs(kernel - other).max() > 0.1 * bound


def test_encoders_that_cannot(run, tmp_path):
    with pytest.raises(UserError, match="--image_size=32"):
        at_side(build_encoder("vit_tiny", 32), 48)
    with pytest.raises(UserError, match="--finetune_stem=keep"):
        with_cifar_stem(build_encoder("convnet_small", 32), 0)
    config = EvaluateConfig(
        run=str(run), image_size=48, protocols=("masks",), out=str(tmp_path), **SMALL
    )
    with pytest.raises(UserError, match="masker only takes images of its 32 pixels"):
        evaluate(config)
    with pytest.raises(UserError, match="--mean needs one number"):
        evaluate(EvaluateConfig(run=str(run), mean=(0.5,), out=str(tmp_path), **SMALL))
