"""Two devices compute what one does: queue, mixtures, sequential masks, objects."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("maskings_program.py")
# What each case must move in training, or the comparison would show nothing.
CASES = {
    "queue and two mixtures": ("queue", "conv2d"),
    "sequential, noise": ("mask_logits", "conv2d"),
    "objects of others": ("conv2d",),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{devices: arrays} after the same three steps; both runs at once."""
    folder = tmp_path_factory.mktemp("replicas")
    runs = {
        devices: subprocess.Popen(
            [sys.executable, str(PROGRAM), str(devices), str(folder / f"{devices}.npz")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for devices in (1, 2)
    }
    for run in runs.values():
        _, errors = run.communicate(timeout=600)
        assert run.returncode == 0, errors[-3000:]
    return {devices: dict(np.load(folder / f"{devices}.npz")) for devices in runs}


@pytest.mark.parametrize("case", CASES)
def test_two_devices_equal_one(trained, case):
    one, two = (
        {name: array for name, array in trained[devices].items() if name.startswith(f"{case}|")}
        for devices in (1, 2)
    )
    assert one.keys() == two.keys()
    for part in CASES[case]:
        moved = [array for name, array in one.items() if "|moved" in name and part in name]
        assert max(moved) > 1e-4, part
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=1e-6, atol=1e-7, err_msg=name)
