"""The programs as programs: help without waiting, recipes, what reaches the terminal."""

import os
import pty
import re
import resource
import subprocess
import sys
import termios
import tomllib
from pathlib import Path

import pytest

from adios_tf import cli
from adios_tf.encoders import BACKBONES
from adios_tf.encoders.names import BACKBONE_LINES
from adios_tf.errors import UserError
from adios_tf.evaluation.runner import PROTOCOLS
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.registry import declared
from adios_tf.training.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = sorted(file.stem for file in (ROOT / "bin").glob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
SHORT = """--recipe=quickstart --train_images=256 --epochs=1 --warmup_epochs=0
--knn_train_images=200 --knn_test_images=100""".split()
QUICK_KNN = "--run=run --protocols=knn --knn_k=5 --train_images=200 --test_images=100".split()


def module(name: str) -> list[str]:
    return [sys.executable, "-m", f"adios_tf.programs.{name}"]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_help_and_list_do_not_wait_for_tensorflow(name, flag):
    """Less than 2 seconds of processor time; importing TensorFlow alone takes more."""
    if flag == "--list" and name not in ("pretrain", "evaluate"):
        pytest.skip("this program has nothing to list")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*module(name), flag], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 2
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) > 8


def test_every_program_is_a_command_and_a_file():
    scripts = PROJECT["project"]["scripts"]
    expected = {f"adios-{n.replace('_', '-')}": f"adios_tf.programs.{n}:run" for n in PROGRAMS}
    assert scripts == expected
    modules = {f.stem for f in (ROOT / "adios_tf/programs").glob("*.py")} - {"__init__"}
    assert modules == set(PROGRAMS)


def test_every_package_is_in_the_wheel():
    folders = {file.parent for file in (ROOT / "adios_tf").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names | {"adios_tf.recipes"}


@pytest.mark.parametrize(
    ("package", "name", "registry"),
    [
        ("objectives", "OBJECTIVES", OBJECTIVES),
        ("masking", "MASKINGS", MASKINGS),
        ("masking", "FILLS", FILLS),
        ("evaluation", "PROTOCOLS", PROTOCOLS),
    ],
)
def test_what_is_listed_is_what_is_registered(package, name, registry):
    """Less what the tests' own plugins register, which --list --plugins shows."""
    ours = registry._entries.items()
    known = {n: registry.lines()[n] for n, entry in ours if entry.__module__.startswith("adios_tf")}
    assert declared(package)[name] == known


def test_the_encoders_of_the_list_are_those_that_are_built():
    def home(name):  # tests and their plugins register encoders, too
        return getattr(BACKBONES[name], "func", BACKBONES[name]).__module__

    lines = BACKBONES.lines().items()
    assert {n: line for n, line in lines if home(n).startswith("adios_tf.")} == BACKBONE_LINES


def test_recipes_by_name():
    found = cli.recipes()
    files = ROOT.glob("configs/**/*.flags")
    names = {str(file.relative_to(ROOT / "configs").with_suffix("")) for file in files}
    assert names == set(found)
    for name in found:
        assert found[name]
        cli.parse(PretrainConfig, [f"--recipe={name}"])
    given = cli.parse(PretrainConfig, ["--recipe=quickstart", "--epochs=3"])
    file = ROOT / "configs/quickstart.flags"
    assert given == cli.parse(PretrainConfig, [f"--flagfile={file}", "--epochs=3"])
    with pytest.raises(UserError, match="unknown recipe 'quikstart': did you mean 'quickstart'"):
        cli.parse(PretrainConfig, ["--recipe=quikstart"])


def on_a_terminal(command: list[str], folder: Path) -> str:
    """Returns all that a program writes to its terminal."""
    reading, writing = pty.openpty()
    termios.tcsetwinsize(writing, (40, 160))  # of a terminal without a size no bar is drawn
    process = subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdin=writing, stdout=writing, stderr=writing
    )
    os.close(writing)
    found = b""
    while True:
        try:
            part = os.read(reading, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        found += part
    assert process.wait() == 0, found.decode()
    return found.decode()


OURS = {
    "pretrain": r"knn_|building the training step|epoch 1: |what +value|-{5}|seconds"
    r"|images_per_second|peak_memory_mb|mask_ari|pictures: |report: |summary: |pretrain: +\d+%"
    r"|preparing shapes",
    "evaluate": r"run on shapes|data set +protocol|-{5}|shapes +knn|written to |features",
    "export": r"models/tiny/1|model card: ",
}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    commands = {
        "pretrain": [*SHORT, "--run_dir=run"],
        "evaluate": QUICK_KNN,
        "export": ["--run=run", "--out=models/tiny/1"],
    }
    return {
        name: on_a_terminal([*module(name), *flags], folder) for name, flags in commands.items()
    }


@pytest.mark.parametrize("name", list(OURS))
def test_no_foreign_line_reaches_the_terminal(terminal, name):
    lines = [line.strip() for line in re.split(r"[\r\n]+|\x1b\[A", terminal[name]) if line.strip()]
    assert lines
    foreign = [line for line in lines if not re.match(OURS[name], line)]
    assert foreign == []


def test_one_line_before_the_step_is_built_and_one_unit(terminal):
    text = terminal["pretrain"]
    assert text.count("building the training step") == 1
    assert text.index("building the training step") < text.index("epoch 1:")
    for rate in re.findall(r"[\d.]+[kM]?\S*/s\b", text):
        assert rate.endswith("img/s")


NESTED_BARS = """
import dataclasses, sys
from tqdm import tqdm
from adios_tf import cli

def main(settings):
    with tqdm(total=2, desc="outer") as outer:
        for _ in tqdm(range(3), "inner"):
            pass
        outer.update(2)
    list(tqdm(range(3), "next"))

cli.start(main, dataclasses.make_dataclass("Settings", [], frozen=True), "")
"""


def test_one_progress_bar_at_a_time(tmp_path):
    shown = on_a_terminal([sys.executable, "-c", NESTED_BARS], tmp_path)
    assert "outer" in shown
    assert "next" in shown
    assert "inner" not in shown


def test_no_progress_bar_where_there_is_no_terminal(terminal, tmp_path):
    command = [*module("pretrain"), *SHORT, f"--run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "\r" not in done.stdout + done.stderr
    assert "%|" not in done.stdout + done.stderr
    assert "epoch 1: " in done.stdout
