"""A tiny world for runs that go wrong."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adios_tf.cli import parse
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import pretrain

HERE = Path(__file__).resolve().parent
TINY = (
    "--plugins=tiny_encoder --backbone=tiny --image_size=16 --batch_size=8 --epochs=2 "
    "--warmup_epochs=0 --hidden_dim=8 --output_dim=8 --objective=simclr --masking=none "
    "--picture_every=0 --learning_rate=0.05"
).split()


@pytest.fixture(scope="session", autouse=True)
def plugin():
    sys.path.insert(0, str(HERE))
    yield "tiny_encoder"
    sys.path.remove(str(HERE))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 classes x 12 PNG files of 16 x 16 pixels: three batches of eight."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for n in range(12):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{n:02d}.png")
    return root


@pytest.fixture(scope="session")
def settings(folder: Path, plugin: str) -> Callable[..., PretrainConfig]:
    """Returns (run folder, flags) -> the settings of a tiny run; three updates an epoch."""

    def made(run_dir: Path, *flags: str) -> PretrainConfig:
        lines = [f"--dataset={folder}", *TINY, f"--run_dir={run_dir}", *flags]
        return dataclasses.replace(parse(PretrainConfig, lines))  # nothing is chosen for it

    return made


@pytest.fixture(scope="module", autouse=True)
def only_training():
    """Leaves out of every run what faults here do not touch, and takes most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adios_tf.training.run.draw_curves", lambda *_: None)
        patch.setattr("adios_tf.training.run.write_report", lambda *_: None)
        for name in ("before", "after"):
            patch.setattr(OnlineEvaluator, name, lambda self: {})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, settings, only_training) -> Path:
    """A run that nothing stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    pretrain(settings(run_dir))
    return run_dir
