"""bin/evaluate.py as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "bin/evaluate.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_row_from_the_command_line(run, pictures, tmp_path):
    done = program(
        f"--run={run}",
        f"--dataset={pictures}",
        "--protocols=knn",
        "--knn_k=5",
        f"--out={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    [top1, top5] = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert f"{100 * top1['value']:.2f}" in done.stdout
    assert top5["command"] in done.stdout
    assert f"written to {tmp_path}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--knn_k=0"], "--knn_k=(0,): must be at least 1"),
        (["--severities=1,6"], "must be at most 5"),
        (["--resize=crop"], "squash"),
        (["--run=nowhere"], "no pretrained model in nowhere"),
        (["--compare", "nowhere", "elsewhere"], "nowhere holds no evaluation"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    done = program(*arguments, f"--out={tmp_path}")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("evaluate.py: ")
    assert message in last
    assert "Traceback" not in done.stderr


def test_help_lists_every_flag_under_its_protocol():
    done = program("--help")
    assert done.returncode == 0
    for words in ("--run", "knn:", "--knn_temperature [0.07]", "corruptions:", "--severities"):
        assert words in done.stdout
    assert done.stderr == "", "help is there without waiting for TensorFlow"
