"""What a user is told when something is wrong: one line, exit code 2, nothing overwritten.

A few programs run as a user runs them; the rest of the mistakes call what the program calls.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.cli import parse
from adios_tf.errors import UserError
from adios_tf.reporting.tables import read_jsonl
from adios_tf.training.callbacks import Guard
from adios_tf.training.config import PretrainConfig
from adios_tf.training.run import pretrain

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    "--image_size=32 --batch_size=8 --epochs=1 --warmup_epochs=0 --backbone=test_layer "
    "--hidden_dim=8 --output_dim=8 --masking=none --picture_every=0"
).split()


def program(*arguments: str) -> subprocess.CompletedProcess:
    """Runs bin/pretrain.py in a process of its own."""
    command = [sys.executable, str(ROOT / "bin" / "pretrain.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )


def run(run_dir: Path, dataset: Path | str, *flags: str) -> dict:
    arguments = [f"--run_dir={run_dir}", f"--dataset={dataset}", *TINY, *flags]
    return pretrain(parse(PretrainConfig, arguments))


def told(run_dir: Path, dataset: Path | str, *flags: str) -> str:
    """The one line that a mistake ends with."""
    with pytest.raises(UserError) as caught:
        run(run_dir, dataset, *flags)
    line = str(caught.value)
    assert "\n" not in line
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture(autouse=True)
def words(plugin):
    """The encoder `test_layer` of the tests' plugin."""
    return __import__(plugin)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, folder, plugin) -> Path:
    """A finished run of one epoch."""
    __import__(plugin)
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    run(run_dir, folder)
    return run_dir


# ---------------------------------------------------------------------- as a user runs it


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--epoch=5"], r"Unknown command line flag 'epoch'\. Did you mean: epochs"),
        (["--dataset=cifra10"], r"unknown data set 'cifra10': did you mean 'cifar10'\?"),
        (["--dataset={pictures}"], r"cannot read image .*/b\.png .*--skip_broken"),
    ],
)
def test_the_program_ends_with_code_2_and_one_line(tmp_path, flags, line):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    flags = [flag.format(pictures=pictures) for flag in flags]
    done = program(f"--run_dir={tmp_path / 'run'}", *flags)
    assert done.returncode == 2
    assert re.fullmatch(r"pretrain\.py: [^\n]*\n", done.stderr), done.stderr
    assert re.search(line, done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flag", "text"), [("--list", "adversarial"), ("--help", "--masking")])
def test_list_and_help_end_well(flag, text):
    done = program(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert text in done.stdout


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--backbone=resnet8"], "unknown backbone 'resnet8': did you mean 'resnet"),
        (["--objective=simcrl"], "unknown objective 'simcrl': did you mean 'simclr'?"),
        (["--masking=adversarail"], "unknown masking 'adversarail': did you mean 'adversarial'?"),
        (["--masking=blocks", "--fill=earse"], "unknown fill 'earse': did you mean 'erase'?"),
        (["--optimizer=adam"], "did you mean 'adamw'?"),
        (["--masking=adversarial", "--num_masks=1"], "at least 2"),
        (["--masking=adversarial", "--masker_blocks=4", "--image_size=36"], "36"),
        (["--masking=adversarial", "--image_size=33"], "multiple of 8"),
        (["--backbone=convnet_small", "--image_size=8"], "16 pixels or more"),
        (["--batch_size=25"], "--batch_size=25 is larger than the data (24 images)"),
        (["--train_images=4"], "--batch_size=8 is larger than the data (4 images)"),
        (["--train_images=1", "--batch_size=1"], "one image is too few"),
        (["--epochs=3", "--warmup_epochs=3"], "shorten the warm-up or train longer"),
        (["--masking=objects"], "this data set has no masks"),
        (["--plugins=not_there_at_all"], "--plugins=not_there_at_all cannot be imported"),
        (["--devices=99"], "--devices=99, but only"),
        (["--init_from=nothing/here"], "no pretrained model in nothing/here"),
        (["--run_dir="], "--run_dir is required"),
        (["--train_split=train[90%]"], "FROM:TO"),
        (["--learning_rate=0"], "above 0"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, folder, flags, line):
    assert line in told(tmp_path / "run", folder, *flags)
    left = contents(tmp_path / "run")
    assert not [name for name in left if name.startswith(("checkpoints/ckpt", "model/"))]


# ---------------------------------------------------------------------- data


def test_data_that_would_have_to_be_downloaded(tmp_path):
    line = told(tmp_path / "run", "cifar100", f"--data_dir={tmp_path}")
    assert "not prepared" in line
    assert "--data_dir" in line
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_there(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images" in told(tmp_path / "run", empty)
    assert "no folder" in told(tmp_path / "run", f"folder:{tmp_path / 'gone'}")
    line = told(tmp_path / "run", "mnist", f"--data_dir={tmp_path / 'gone'}")
    assert "is not a folder" in line
    assert not (tmp_path / "run").exists()


def test_labels_where_labels_are_needed(tmp_path, real_images):
    classes = tmp_path / "classes.txt"
    classes.write_text("horse\n")
    flags = [f"--data_dir={real_images}", f"--class_list={classes}"]
    assert "labels" in told(tmp_path / "run", "weizmann_horses", *flags)


def test_a_folder_without_the_test_split(tmp_path, folder):
    divided = tmp_path / "divided"
    divided.mkdir()
    for part in ("train", "val"):
        shutil.copytree(folder, divided / part)
    line = told(tmp_path / "run", divided, "--test_split=test")
    assert "is divided into train, val and has no 'test'" in line


# ---------------------------------------------------------------------- run folders


def test_a_folder_with_other_files_is_left_alone(tmp_path, folder):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no run" in told(tmp_path, folder)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_run_folder_that_cannot_be_written(tmp_path, folder):
    file = tmp_path / "file"
    file.write_text("text")
    assert "is a file" in told(file, folder)
    assert "cannot write" in told(file / "run", folder)
    assert "cannot write" in told(Path("/proc/run"), folder)
    assert file.read_text() == "text"


def test_a_finished_run_is_not_overwritten(finished, folder):
    before = contents(finished)
    assert "nothing was overwritten" in told(finished, folder, "--noresume")
    assert contents(finished) == before


@pytest.mark.parametrize(
    "flags",
    [["--hidden_dim=16"], ["--optimizer=sgd"], ["--masking=adversarial", "--masker_base=8"]],
)
def test_an_incompatible_checkpoint(finished, folder, flags):
    before = contents(finished)
    names = [flag.removeprefix("--").partition("=")[0] for flag in flags]
    line = told(finished, folder, f"--allow_changes={','.join(names)}", *flags)
    assert "of another architecture or optimizer" in line
    assert "flags.txt" in line
    assert contents(finished) == before


def test_a_damaged_checkpoint(finished, folder, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    [data] = run_dir.glob("checkpoints/*/*.data*")
    data.write_bytes(data.read_bytes()[:100])
    for _ in range(2):  # it does not start from zero the second time either
        assert "no intact checkpoint" in told(run_dir, folder)
    assert contents(run_dir / "model") == contents(finished / "model")


def test_weights_of_another_architecture(finished, folder, tmp_path):
    init = f"--init_from={finished}"
    assert "another architecture" in told(tmp_path / "a", folder, init, "--hidden_dim=16")
    line = told(tmp_path / "b", folder, init, "--init_parts=encoder", "--backbone=convnet_small")
    assert "its encoder is of another architecture" in line
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_model_folder_that_is_incomplete(tmp_path, folder):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "info.json").write_text("{")
    line = told(tmp_path / "run", folder, f"--init_from={tmp_path}")
    assert "info.json" in line


# ---------------------------------------------------------------------- divergence

HUGE = ["--optimizer=sgd", "--schedule=step", "--epochs=3", "--momentum=0"]


def finite_checkpoint(run_dir: Path) -> None:
    """The newest checkpoint of a run holds no NaN."""
    folders = (run_dir / "checkpoints").glob("ckpt-*")
    newest = max(folders, key=lambda path: int(path.name.removeprefix("ckpt-")))
    reader = tf.train.load_checkpoint(str(newest / "weights"))
    for name, kind in reader.get_variable_to_dtype_map().items():
        if kind.is_floating:
            assert np.isfinite(reader.get_tensor(name)).all(), name


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(finished, folder, tmp_path):
    """Resumed at an absurd rate, the run stops with the reason; the good epoch stays."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    kept = contents(run_dir / "checkpoints")
    changed = ["--epochs=3", "--learning_rate=1e38", "--nolars_clip"]
    allowed = "--allow_changes=epochs,learning_rate,lars_clip"
    line = told(run_dir, folder, *changed, allowed)
    assert re.search(r"finite|is nan|is inf", line), line
    assert "training diverged" in line
    assert "--learning_rate" in line
    assert "the last checkpoint, ckpt-3, is from before" in line
    assert contents(run_dir / "checkpoints") == kept
    finite_checkpoint(run_dir)
    assert [r["epoch"] for r in read_jsonl(run_dir / "metrics.jsonl")] == [1]
    assert (run_dir / "model" / "encoder.keras").exists()


def test_no_checkpoint_inside_an_epoch_holds_nan(folder, tmp_path):
    """With a save after every update, the one before the divergence is the last."""
    line = told(tmp_path / "run", folder, "--checkpoint_steps=1", "--learning_rate=1e38", *HUGE)
    assert "training diverged" in line
    saved = list((tmp_path / "run" / "checkpoints").glob("ckpt-*"))
    assert saved
    finite_checkpoint(tmp_path / "run")


def test_weights_are_looked_at_before_every_save():
    """The loss of a step is that of the weights before it, and finite while they are lost."""
    weight = keras.Variable([1.0, 2.0])
    count = keras.Variable(0, dtype="int64")
    guard = Guard(saves=2)
    guard.set_model(SimpleNamespace(variables=[count, weight], step=count))
    guard.on_epoch_begin(0)
    guard.on_train_batch_end(0, {"distance": 1.0})
    weight.assign([1.0, np.nan])
    with pytest.raises(UserError, match="is not finite after batch 2"):
        guard.on_train_batch_end(1, {"distance": 1.0})
    guard.on_train_batch_end(2, {"distance": 1.0})  # no save here
    with pytest.raises(UserError, match="is not finite after epoch 1"):
        guard.on_epoch_end(0, {"distance": 1.0})


def test_a_collapsed_run_stops(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("adios_tf.training.callbacks.COLLAPSED_SPREAD", 1.0)
    line = told(tmp_path / "run", folder)
    assert "collapsed to a point in epoch 1" in line
    assert "--nostop_on_collapse" in line
    assert "no checkpoint had been written yet" in line
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    run(tmp_path / "again", folder, "--nostop_on_collapse")
