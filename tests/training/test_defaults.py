"""What is chosen for images outside the catalog, when, and that it holds."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from adios_tf import cli
from adios_tf.data import describe
from adios_tf.errors import UserError
from adios_tf.run_folder import RunFolder
from adios_tf.training import defaults
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import training_examples


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`small`: 40 images of 32 pixels; `large`: 12 of 150 x 200 and 150 x 120 in turn."""
    home = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    for name, count in (("small", 40), ("large", 12)):
        (home / name).mkdir()
        for n in range(count):
            shape = (32, 32, 3) if name == "small" else (150, (200, 120)[n % 2], 3)
            pixels = rng.integers(0, (256, 128, 64), shape, np.uint8)
            Image.fromarray(pixels).save(home / name / f"{n:02d}.png")
    return home


def chosen(*flags, trial=None, replicas=1):
    config = cli.parse(PretrainConfig, [*flags])
    info = describe(config.dataset, config.image_size)
    train = training_examples(config, info)
    return defaults.choose(config, config.given, info, train, replicas, trial)


def test_what_is_left_out_follows_the_images(folders, capsys):
    config, info = chosen(f"--dataset={folders}/small", "--num_masks=3")
    assert (config.image_size, config.batch_size, config.epochs) == (32, 8, 200)
    assert (config.backbone, config.optimizer, config.warmup_epochs) == (
        "convnet_small",
        "adamw",
        10,
    )
    assert config.learning_rate == pytest.approx(0.002 / 4)  # the root of 8 / 128
    images = [np.asarray(Image.open(file)) for file in sorted((folders / "small").iterdir())]
    pixels = np.concatenate(images).reshape(-1, 3) / 255
    np.testing.assert_allclose(info.mean, pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(info.std, pixels.std(0), atol=1e-4)
    assert (info.mean, info.std, info.image_size) == (config.mean, config.std, 32)
    table = capsys.readouterr().out
    for field in dataclasses.fields(config):
        changed = getattr(config, field.name) != field.default
        told = field.name in ("dataset", "num_masks") or f"--{field.name}=" in table
        assert told or not changed, field.name


def test_what_is_given_stays(folders):
    flags = "--image_size=64 --backbone=vit_tiny --learning_rate=0.1 --epochs=1".split()
    config, _ = chosen(f"--dataset={folders}/large", *flags)
    assert (config.image_size, config.backbone, config.learning_rate) == (64, "vit_tiny", 0.1)
    assert (config.optimizer, config.epochs, config.warmup_epochs) == ("lars", 1, 0)
    assert chosen(f"--dataset={folders}/large")[1].image_size == 96  # 134 in the middle, on a CPU
    assert chosen(f"--dataset={folders}/large", "--mean=0,0,0", "--std=1,1,1")[1].mean == (0, 0, 0)
    with pytest.raises(UserError, match="one number for each"):
        chosen(f"--dataset={folders}/large", "--mean=0,0", "--std=1,1")


def test_recipes_and_the_catalog_keep_what_they_say(folders):
    new = f"--run_dir={folders}/new"  # runs/quickstart may be there, and would go on
    recipe = cli.parse(PretrainConfig, ["--recipe=quickstart", new])
    config, _ = chosen("--recipe=quickstart", new, f"--dataset={folders}/small")
    facts = {"image_size": 32, "mean": config.mean, "std": config.std}
    assert config == dataclasses.replace(recipe, dataset=f"{folders}/small", **facts)
    assert config.mean
    config, info = chosen("--dataset=shapes", "--epochs=20")
    assert config == PretrainConfig(epochs=20, image_size=32)
    assert info == describe("shapes")
    assert chosen("--recipe=quickstart", new, "--epochs=1")[0].warmup_epochs == 0
    assert chosen("--dataset=shapes", "--epochs=5", "--warmup_epochs=7")[0].warmup_epochs == 7
    by_hand = PretrainConfig(dataset=f"{folders}/small", image_size=32)
    info = describe(by_hand.dataset, 32)
    train = training_examples(by_hand, info)
    assert defaults.choose(by_hand, by_hand.given, info, train, 1, None) == (by_hand, info)


def test_a_run_that_goes_on_takes_what_was_recorded(folders, tmp_path):
    flags = [f"--dataset={folders}/small", f"--run_dir={tmp_path}"]
    first, _ = chosen(*flags)
    RunFolder(tmp_path).begin(cli.flag_lines(dataclasses.replace(first, epochs=77)), {})
    again, info = chosen(*flags)
    assert again == dataclasses.replace(first, epochs=77)
    assert info.mean == first.mean
    # A run of before these settings were recorded goes on with what held then.
    old = [line for line in cli.flag_lines(first) if not line.startswith(("--mean", "--std"))]
    RunFolder(tmp_path).begin(old, {})
    assert chosen(*flags)[1].mean == describe(first.dataset).mean


def test_minutes_become_epochs_and_stay(folders, tmp_path, monkeypatch):
    """The trial is short, has all other settings, and what it took is what counts."""
    seen = []

    def trial(settings):
        seen.append(settings)
        run = RunFolder(settings.run_dir)
        run.path.mkdir()
        for epoch, second in ((1, 100.0), (2, 102.5)):  # an epoch of 2 s, 3 updates in 0.5 s
            folder = run.checkpoints / f"ckpt-{epoch}"
            folder.mkdir(parents=True)
            os.utime(folder, (second, second))
            run.add_record({"epoch": epoch, "seconds": 0.75})

    monkeypatch.setattr(defaults.time, "perf_counter", lambda: 0.0)
    flags = [f"--dataset={folders}/small", "--max_minutes=1", f"--run_dir={tmp_path}"]
    config, _ = chosen(*flags, trial=trial)
    # 5 updates of 0.25 s and 1.75 s beside them: 3 s an epoch.
    assert (config.epochs, config.warmup_epochs) == (20, 2)
    (short,) = seen
    assert (short.epochs, short.train_images, short.given) == (2, 24, None)
    assert (short.batch_size, short.mean) == (config.batch_size, config.mean)
    RunFolder(tmp_path).begin(cli.flag_lines(config), {})
    assert chosen(*flags, trial=None)[0] == config
    catalog = "--recipe=quickstart --train_images=256 --max_minutes=1 --run_dir=".split()
    assert chosen(*catalog, trial=trial)[0].epochs == 24  # 2 of 0.375 s and 1.75 beside


@pytest.mark.slow
def test_a_folder_and_minutes_are_all_it_needs(folders, tmp_path, monkeypatch):
    from adios_tf.training.run import pretrain

    monkeypatch.chdir(tmp_path)
    flags = [f"--dataset={folders}/small", "--max_minutes=0.2"]
    summary = pretrain(cli.parse(PretrainConfig, flags))
    run = RunFolder("runs/small")
    assert run.records()[-1]["epoch"] == summary["epochs"] == int(run.settings()["epochs"])
    assert pretrain(cli.parse(PretrainConfig, flags))["epochs"] == summary["epochs"]
