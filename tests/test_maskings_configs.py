"""The recipes of MixMask, MSCN, sequential masking and the plain objectives."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf import cli
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.registry import construct
from adios_tf.training.config import PretrainConfig
from adios_tf.training.methods import check_combination

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ROOMS = {"plain": 30, "mixmask": 10, "mscn": 3, "sequential": 8}
FILES = [
    f"{room}/{path.name}" for room in ROOMS for path in sorted((CONFIGS / room).glob("*.flags"))
]
# The table b.1 of MixMask's sheet.
IMAGENET = {
    "batch_size": 256,
    "min_scale": 0.2,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "backbone": "resnet50",
    "objective": "moco",
    "queue_size": 65536,
    "ema_base": 0.999,
    "temperature": 0.2,
    "output_dim": 128,
    "hidden_dim": 2048,
    "symmetric": False,
    "epochs": 200,
    "optimizer": "sgd",
    "learning_rate": 0.03,
    "weight_decay": 1e-4,
    "schedule": "cosine",
}
CIFAR = {
    "batch_size": 512,
    "backbone": "resnet18",
    "stem": "small",
    "objective": "moco",
    "queue_size": 4096,
    "ema_base": 0.99,
    "temperature": 0.1,
    "symmetric": True,
    "epochs": 1000,
    "optimizer": "sgd",
    "learning_rate": 0.06,
    "weight_decay": 5e-4,
}
BLOCKS = {"masking": "blocks", "fill": "mix", "keep_ratio": 0.5, "partner": "reversal"}
TABLES = {
    "plain/imagenet2012_resnet50_moco": IMAGENET | {"masking": "none"},
    "mixmask/imagenet2012_resnet50_moco": IMAGENET | BLOCKS | {"grid_size": 8},
    "mixmask/imagenet2012_resnet50_moco_unmix": IMAGENET
    | {"masking": "unmix_blocks", "fill": "mix", "unmix_prob": 0.5, "unmix_beta": 1.0},
    "plain/cifar100_resnet18_moco": CIFAR,
    "mixmask/cifar100_resnet18_moco": CIFAR | BLOCKS,
    "mscn/imagenet100_resnet50_moco": IMAGENET
    | {"masking": "mscn", "fill": "noise", "high_pass": 11, "noise_std": 0.18, "noise_tile": 32},
}


def read(name):
    return cli.parse(PretrainConfig, [f"--flagfile={CONFIGS / name}"])


def test_they_are_all_there():
    for room, number in ROOMS.items():
        assert sum(name.startswith(f"{room}/") for name in FILES) == number


@pytest.mark.parametrize("name", FILES)
def test_its_masks_can_be_drawn_and_filled(name):
    """At the recipe's image side, with two convolutions in the place of the U-Net."""
    config = read(name)
    settings, policy = dataclasses.asdict(config), MASKINGS[config.masking]
    if config.masking == "none":
        assert policy.num_masks == 0
        assert name.startswith("plain/")
        return
    given, side = {}, config.image_size
    if policy.trains:
        inputs = keras.Input((side, side, policy.masker_inputs))
        outputs = keras.layers.Conv2D(policy.masker_outputs(config.num_masks), 1)(inputs)
        given["masker"] = keras.Model(inputs, outputs)
    masking, fill = construct(policy, settings, **given), construct(FILLS[config.fill], settings)
    images, seed = tf.ones((2, side, side, 3)), tf.constant([1, 2])
    masks = masking.masks(images, None, seed)
    assert 0 < float(tf.reduce_mean(masks)) < 1
    for n, slot in enumerate(masking.slots({"view2": masks}, seed)):
        assert np.isfinite(fill.cover(images, slot["view2"], seed, n).images).all()


@pytest.mark.parametrize("name", TABLES)
def test_values_of_the_sheets(name):
    config = dataclasses.asdict(read(f"{name}.flags"))
    assert {key: config[key] for key in TABLES[name]} == TABLES[name]


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("sequential/")])
def test_sequential_recipes_differ_from_adios_by_their_masks(name):
    ours = dataclasses.asdict(read(name))
    adios = f"adios/{Path(name).name}"
    base = adios if (CONFIGS / adios).exists() else "cifar100.flags"
    theirs = dataclasses.asdict(read(base))
    masks = {"masking", "num_masks", "slot_reduction", "run_dir", "dataset"}
    masks |= {"sparsity_weight", "entropy_weight", "entropy_kind", "keep_ratio"}
    assert {key for key in ours if ours[key] != theirs[key]} <= masks
    assert ours["masking"] == "sequential"
    assert ours["budget"] == (0.2,)


def commands():
    """Every command in the page on methods."""
    page = CONFIGS.parent / "docs" / "methods.md"
    return re.findall(r"`python bin/pretrain\.py ([^`]*)`", page.read_text())


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_can_be_run(command, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    config = cli.parse(PretrainConfig, command.split())
    assert config.list == (command == "--list")
    check_combination(config)


def test_the_page_has_a_row_for_every_masking():
    named = [cli.parse(PretrainConfig, c.split()[1:]).masking for c in commands() if "run_dir" in c]
    ours = {n for n in MASKINGS if MASKINGS[n].__module__.startswith("adios_tf.")}
    assert ours - set(named) == {"sequential_one"}
    folders = re.findall(r"--run_dir=(\S+)", " ".join(commands()))
    assert len(set(folders)) == len(folders) > 15


def test_the_page_s_own_masking_works(monkeypatch):
    for part in ("_entries", "_lines"):
        monkeypatch.setattr(MASKINGS, part, dict(getattr(MASKINGS, part)))
    page = (CONFIGS.parent / "docs" / "methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(code, {"__name__": "a_users_module"})
    masks = MASKINGS["left_half"]().masks(tf.zeros((2, 4, 6, 3)), None, tf.constant([0, 0]))
    np.testing.assert_array_equal(masks[..., 0], [[[1, 1, 1, 0, 0, 0]] * 4] * 2)
