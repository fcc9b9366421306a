"""Several devices, and several workers, give what one gives."""

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adios_tf.registry import declared

PROGRAM = Path(__file__).with_name("replicas_program.py")
TOLERANCE = 1e-9  # of float64, relative and absolute


def case(objective, masking, update="alternating", optimizer="sgd", **settings):
    return locals() | settings


ADIOS = {
    "simclr, lars": case("simclr", "adversarial", optimizer="lars"),
    "byol, one mask": case("byol", "adversarial_one"),
    "simsiam, simultaneous": case("simsiam", "adversarial", "simultaneous"),
}
OTHERS = {
    "queue and two mixtures": case(
        "moco", "unmix_blocks", fill="mix", partner="random", per_image=True
    ),
    "sequential, noise": case("simclr", "sequential_one", fill="noise"),
    "objects of others": case("simclr", "objects", object_shuffle=True),
}
EVERY = {
    f"{objective}, {masking}": case(objective, masking)
    for objective, masking in itertools.product(
        declared("objectives")["OBJECTIVES"], declared("masking")["MASKINGS"]
    )
}


def start(devices, cases, output, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, (PROGRAM, devices, cases, output))],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_workers(cases, folder):
    """One pair of processes for all cases."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
    started = {}
    for index in (0, 1):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        output = folder / f"worker{index}.npz"
        started[f"worker {index}"] = start(0, cases, output, TF_CONFIG=json.dumps(task)), output
    return started


def finish(started, patience=400):
    """{who: {case: arrays}} of processes that run at the same time."""
    trained = {}
    for who, (process, output) in started.items():
        out, _ = process.communicate(timeout=patience)
        assert process.returncode == 0, out[-3000:]
        trained[who] = {}
        for key, array in np.load(output).items():
            name, _, key = key.partition("|")
            trained[who].setdefault(name, {})[key] = array
    return trained


def write(file, cases):
    file.write_text(json.dumps(cases))
    return file


def same(one, other, who):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_allclose(
            other[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"{who}: {name}"
        )


def check(trained, name):
    one, *others = trained
    arrays = trained[one][name]
    assert len(arrays) > 20
    # What does not move is alike everywhere, and would show nothing.
    moved = {key: value for key, value in arrays.items() if key.startswith("moved")}
    for network in ("encoder", "masker"):
        if ours := [value for key, value in moved.items() if network in key]:
            assert max(ours) > 1e4 * TOLERANCE, network
    assert any("masker" in key for key in moved) == ("log masker_objective" in arrays)
    assert any(np.abs(v).max() > 1e-3 for k, v in arrays.items() if "moving_mean" in k)
    for who in others:
        if name in trained[who]:
            same(arrays, trained[who][name], who)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two devices and two workers against one device, all at once."""
    folder = tmp_path_factory.mktemp("replicas")
    cases = write(folder / "cases.json", ADIOS | OTHERS)
    some = write(folder / "some.json", {name: ADIOS[name] for name in ["byol, one mask"]})
    alone = {
        f"{n} devices": (start(n, cases, folder / f"{n}.npz"), folder / f"{n}.npz") for n in (1, 2)
    }
    return finish(alone | two_workers(some, folder))


@pytest.mark.parametrize("name", ADIOS | OTHERS)
def test_two_devices_equal_one(trained, name):
    """Weights, optimizer slots, queue, BatchNorm averages and logs after three steps."""
    check(trained, name)


def test_two_workers_end_with_equal_weights(trained):
    first, second = (trained[f"worker {n}"]["byol, one mask"] for n in (0, 1))
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


@pytest.mark.slow
def test_every_combination(tmp_path):
    """Every objective with every masking: 2 and 4 devices and 2 workers against one device."""
    cases = write(tmp_path / "cases.json", EVERY)
    trained = {}
    for n in (1, 2, 4):
        output = tmp_path / f"{n}.npz"
        trained |= finish({f"{n} devices": (start(n, cases, output), output)}, 3600)
    trained |= finish(two_workers(cases, tmp_path), 3600)
    for name in EVERY:
        assert all(name in each for each in trained.values())
        check(trained, name)
