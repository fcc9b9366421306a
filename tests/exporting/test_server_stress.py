"""The server under load; the full half minute is `pytest -m slow`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'adios_tf[serve]'")


def load(model, seconds, clients):
    program = Path(__file__).with_name("load_program.py")
    command = [sys.executable, program, f"--model={model}"]
    done = subprocess.run(
        [*command, f"--seconds={seconds}", f"--clients={clients}"], capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "wrong or lost: 0" in done.stdout


def test_a_short_load(tiny_export):
    load(tiny_export, seconds=5, clients=6)


@pytest.mark.slow
def test_half_a_minute_of_sixteen_clients(tiny_export):
    load(tiny_export, seconds=30, clients=16)
