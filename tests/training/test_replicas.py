"""Several devices, and several workers, give what one gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("replicas_program.py")


def run(output, devices, objective, masking, update, optimizer, environment=None):
    command = [sys.executable, PROGRAM, devices, objective, masking, update, optimizer, output]
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out[-3000:]


def compare(one, other, tolerance=1e-9):
    assert one.files == other.files
    for name in one.files:
        np.testing.assert_allclose(
            other[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize(
    ("objective", "masking", "update", "optimizer"),
    [
        ("simclr", "adversarial", "alternating", "lars"),
        ("byol", "adversarial_one", "alternating", "lars"),
        ("simsiam", "adversarial", "simultaneous", "sgd"),
    ],
)
def test_two_devices_equal_one(tmp_path, objective, masking, update, optimizer):
    """Weights, optimizer slots, BatchNorm averages and logs after three steps."""
    files = [tmp_path / f"{n}.npz" for n in (1, 2)]
    finish(
        *(
            run(file, n, objective, masking, update, optimizer)
            for n, file in zip((1, 2), files, strict=True)
        )
    )
    one, two = (np.load(file) for file in files)
    assert len(one.files) > 20
    averages = [n for n in one.files if "moving_mean" in n]
    assert any(np.abs(one[n]).max() > 1e-3 for n in averages)
    compare(one, two)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_two_workers_end_with_equal_weights(tmp_path):
    """Two processes with TF_CONFIG, and both equal to one process."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in (0, 1):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        arguments = (0, "byol", "adversarial", "alternating", "sgd")
        workers.append(run(tmp_path / f"{index}.npz", *arguments, {"TF_CONFIG": config}))
    alone = run(tmp_path / "one.npz", 1, "byol", "adversarial", "alternating", "sgd")
    finish(*workers, alone)
    first, second, one = (np.load(tmp_path / f"{name}.npz") for name in ("0", "1", "one"))
    weights = [name for name in first.files if not name.startswith("log ")]
    for name in weights:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], one[name], rtol=1e-9, atol=1e-9, err_msg=name)
