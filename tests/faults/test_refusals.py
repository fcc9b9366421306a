"""What is refused in one line, and what stays as it was then."""

import dataclasses
import errno
import multiprocessing
import os
import resource
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from adios_tf import cli
from adios_tf.errors import UserError
from adios_tf.run_folder import RunFolder
from adios_tf.training.changes import FREE, changes
from adios_tf.training.config import PretrainConfig
from adios_tf.training.failures import explained
from adios_tf.training.lock import locked
from adios_tf.training.run import pretrain
from adios_tf.training.stalled import StalledInput


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def contents(run_dir):
    return {f: f.read_bytes() for f in run_dir.rglob("*") if f.is_file() and f.name != ".lock"}


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--seed=5", "--seed=5, but .* was begun with --seed=0: .* --allow_changes=seed "),
        ("--batch_size=4", "--batch_size=4, but"),
        ("--precision=mixed_bfloat16", "--precision=mixed_bfloat16, but"),
        ("--temperature=0.3", "--temperature=0.3, but"),
        ("--fill=noise", "--fill=noise, but"),
        ("--min_scale=0.5", "--min_scale=0.5, but"),
        ("--update=simultaneous", "--update=simultaneous, but"),
        ("--keep_ratio=0.5", "--keep_ratio=0.5, but"),
        ("--epochs=3", "--epochs=3, but"),
        ("--allow_changes=sede", "unknown flag in --allow_changes 'sede': did you mean 'seed'"),
    ],
)
def test_a_setting_that_changes_the_run(whole, settings, flag, line):
    with pytest.raises(UserError, match=line):
        changes(settings(whole, flag), RunFolder(whole))


def test_what_may_change(whole, settings):
    """The table names flags that exist; they need no leave, and the others do."""
    names = {field.name for field in dataclasses.fields(PretrainConfig)}
    assert set(FREE) <= names
    free = ["--devices=1", "--keep_checkpoints=5", "--checkpoint_steps=2", "--nostop_on_collapse"]
    assert list(changes(settings(whole, *free), RunFolder(whole))) == [
        "devices",
        "keep_checkpoints",
        "checkpoint_steps",
        "stop_on_collapse",
    ]


def test_a_change_that_is_allowed_is_written_down(copy, settings):
    flags = (copy / "flags.txt").read_text()
    more = settings(copy, "--seed=5", "--epochs=3", "--allow_changes=seed,epochs")
    assert pretrain(more)["epochs"] == 3
    assert (copy / "flags.txt").read_text() == flags
    run = RunFolder(copy)
    [change] = (copy / "changes.jsonl").read_text().splitlines()
    assert change == '{"step": 6, "flags": {"seed": ["0", "5"], "epochs": ["2", "3"]}}'
    assert (run.settings()["seed"], run.settings()["epochs"]) == ("5", "3")
    assert changes(settings(copy, "--seed=5", "--epochs=3"), run) == {}  # leave is given once
    with pytest.raises(UserError, match=r"--seed=0, but .* --seed=5"):
        changes(settings(copy, "--epochs=3"), run)


def test_data_of_another_size(copy, settings, folder, tmp_path):
    grown = shutil.copytree(folder, tmp_path / "grown")
    shutil.copy(grown / "cat" / "00.png", grown / "cat" / "more.png")
    flags = (copy / "flags.txt").read_text().replace(str(folder), str(grown))
    (copy / "flags.txt").write_text(flags)
    before = contents(copy)
    with pytest.raises(UserError, match="had 24 images, now 25"):
        pretrain(settings(copy, f"--dataset={grown}"))
    assert contents(copy) == before


def test_checkpoints_that_are_gone(copy, settings):
    shutil.rmtree(copy / "checkpoints")
    before = contents(copy)
    with pytest.raises(UserError, match=r"the checkpoints of .* are gone"):
        pretrain(settings(copy))
    assert contents(copy) == before


def test_a_damaged_record(copy, settings):
    for line in ("[1, 2]\n", '{"step": 1}\n', "{\n"):
        with (copy / "metrics.jsonl").open("a") as file:
            file.write(line)
        with pytest.raises(UserError, match=r"metrics.jsonl, (line|record) 3 "):
            RunFolder(copy).records()
        content = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
        (copy / "metrics.jsonl").write_text("".join(content[:-1]))


# ---------------------------------------------------------------------- two processes


def hold(folder, ready, until):
    with locked(folder):
        ready.set()
        until.wait(60)


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, until = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, until))
    other.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match=f"being written by process {other.pid} on "):  # noqa: SIM117
        with locked(tmp_path):
            pass
    other.kill()
    other.join()
    assert (tmp_path / ".lock").read_text().startswith(f"process {other.pid} ")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")


# ---------------------------------------------------------------------- the machine


def told(error, folder, saved=None):
    with pytest.raises(UserError) as caught, explained(folder, lambda: saved):
        raise error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_failures_in_one_line(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))
    line = told(full, tmp_path, Path("ckpt-7"))
    assert "No space left on device" in line
    assert "goes on from ckpt-7" in line
    words = tf.errors.ResourceExhaustedError(None, None, "x/weights; No space left on device")
    assert "No space left on device" in told(words, tmp_path)
    assert "starts anew" in told(words, tmp_path)
    assert "Read-only" in told(OSError(errno.EROFS, "Read-only file system"), tmp_path)
    memory = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    for flag in ("--batch_size", "--num_masks", "--lean_memory", "--precision", "--accumulate"):
        assert flag in told(memory, tmp_path)
    assert "out of memory" in told(MemoryError(), tmp_path)
    with pytest.raises(PermissionError), explained(tmp_path, lambda: None):
        raise PermissionError(errno.EACCES, "Permission denied", "/some/data/set")
    with pytest.raises(ZeroDivisionError), explained(tmp_path, lambda: None):
        raise ZeroDivisionError


def test_networks_that_do_not_fit_into_memory(monkeypatch, settings, tmp_path):
    def build(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr("adios_tf.training.run.build_pretrainer", build)
    with pytest.raises(UserError, match=r"out of memory: lower .*; nothing was trained"):
        pretrain(settings(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "size", [4_000, pytest.param(20_000, marks=pytest.mark.slow)], ids=["early", "the model"]
)
def test_a_disk_that_fills_up_loses_nothing(copy, settings, size):
    """No larger file can be written for a while, as on a disk that is nearly full."""
    kept = contents(copy / "checkpoints" / "ckpt-6")
    more = settings(copy, "--epochs=3", "--allow_changes=epochs")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*\(File too large\).* from ckpt-"):
            pretrain(more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(copy / "checkpoints" / "ckpt-6") == kept
    assert pretrain(more)["epochs"] == 3
    assert RunFolder(copy).model_step() == 9


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write read-only folders")
@pytest.mark.parametrize(
    "name", ["tensorboard", *(pytest.param(n, marks=pytest.mark.slow) for n in ("", "checkpoints"))]
)
def test_a_folder_that_is_read_only_loses_nothing(copy, settings, name):
    before = contents(copy / "checkpoints") | contents(copy / "model")
    more = settings(copy, "--epochs=3", "--allow_changes=epochs")
    (copy / name).chmod(0o555)
    try:
        with pytest.raises(UserError, match=r"cannot write .*[Pp]ermission denied"):
            pretrain(more)
    finally:
        (copy / name).chmod(0o755)
    assert contents(copy / "checkpoints") | contents(copy / "model") == before
    assert pretrain(more)["epochs"] == 3


def test_events_that_cannot_be_written(tmp_path, settings):
    (tmp_path / ".lock").touch()
    (tmp_path / "tensorboard").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write"):
        pretrain(settings(tmp_path))


def test_a_stalled_pipeline_is_named_once(capsys):
    model = SimpleNamespace(waiting_since=None)
    with StalledInput(model, "--dataset=here", patience=0.2):
        time.sleep(0.5)
        assert not capsys.readouterr().out  # it computes
        model.waiting_since = time.monotonic()
        time.sleep(0.6)
        [line] = capsys.readouterr().out.splitlines()
    assert "the data pipeline is stalled" in line
    assert "--dataset=here" in line


def test_settings_are_compared_as_they_are_written(settings, tmp_path):
    """Every flag's default survives the way through flags.txt."""
    run = RunFolder(tmp_path)
    config = settings(tmp_path)
    run.begin(cli.flag_lines(config), {})
    assert changes(config, run) == {}
