"""Images that break or vanish while a run reads them."""

import shutil

import pytest
from tqdm import tqdm

from adios_tf import cli
from adios_tf.errors import UserError
from adios_tf.training import run as training
from adios_tf.training.config import PretrainConfig


def broken_after_one_epoch(monkeypatch, file):
    """The file vanishes once `model/` is written, which is after the first epoch's checkpoint."""
    save = training._save_model

    def saved(*args):
        save(*args)
        file.unlink(missing_ok=True)

    monkeypatch.setattr(training, "_save_model", saved)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # programs ignore it
def test_images_of_every_kind(tmp_path):
    """The short form of fuzz_images_program.py, in which every kind comes three times."""
    import fuzz_images_program as fuzz

    for n in range(3 * len(fuzz.KINDS)):
        (tmp_path / str(n)).mkdir()
        record = fuzz.trial(n, tmp_path / str(n))
        assert not record["wrong"], (n, record)


@pytest.fixture(autouse=True)
def bars(monkeypatch):
    """A program changes them for its whole process."""
    monkeypatch.setattr(tqdm, "__init__", tqdm.__init__)


@pytest.fixture
def running(folder, settings, tmp_path, monkeypatch):
    """Settings of a run that reads its files anew in every epoch, one of which vanishes."""
    copy = shutil.copytree(folder, tmp_path / "images")
    broken_after_one_epoch(monkeypatch, copy / "cat" / "05.png")
    flags = [f"--dataset={copy}", "--cache=no", "--epochs=4"]
    return lambda *more: settings(tmp_path / "run", *flags, *more)


def test_an_image_that_vanishes_in_an_epoch(running, tmp_path, monkeypatch, capsys):
    """One line, exit code 2, and the checkpoint of the epoch before is kept."""
    config = running()
    arguments = ["bin/pretrain.py", *cli.flag_lines(config)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as left:
        cli.start(training.pretrain, PretrainConfig, "")
    assert left.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"pretrain.py: cannot read image {tmp_path}/images/cat/05.png (")
    assert "; the run goes on from ckpt-" in line
    assert list((tmp_path / "run" / "checkpoints").glob("ckpt-*"))


@pytest.mark.slow
def test_another_image_takes_its_place(running, tmp_path, capsys):
    assert training.pretrain(running("--skip_broken"))["epochs"] == 4
    assert capsys.readouterr().out.count("unreadable by now: 1 of 24 images") == 1
    with pytest.raises(UserError, match="had 24 images, now 23"):
        training.pretrain(running("--skip_broken"))


def test_a_mistake_in_a_pipeline_ends_any_program_in_one_line(monkeypatch, capsys):
    """Evaluation has no more than `cli.start` to catch it."""
    monkeypatch.setattr("sys.argv", ["evaluate.py"])

    def main(_):
        raise RuntimeError("{{node PyFunc}} UserError: cannot read a.png: mend it\nTraceback (most")

    with pytest.raises(SystemExit) as left:
        cli.start(main, PretrainConfig, "")
    assert left.value.code == 2
    assert capsys.readouterr().err == "evaluate.py: cannot read a.png: mend it\n"
    with pytest.raises(ZeroDivisionError):
        cli.start(lambda _: 1 / 0, PretrainConfig, "")
