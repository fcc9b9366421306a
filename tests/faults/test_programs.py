"""Signals, several devices and --deterministic, each in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.errors import Stopped
from adios_tf.run_folder import RunFolder
from adios_tf.training.signals import StopSignals

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def start(config, program="bin/pretrain.py", **environment):
    flags = [f"--flagfile={config}"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}"} | environment
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flagfile(path, settings, *flags):
    from adios_tf.cli import flag_lines

    path.write_text("\n".join(flag_lines(settings(path.with_suffix(""), *flags))) + "\n")
    return path


def test_a_second_signal_finds_the_systems_handling():
    with StopSignals() as stop:
        stop.on_train_batch_begin(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(Stopped, match="SIGINT"):
            stop.on_train_batch_end(0)


def test_sigterm_ends_with_the_code_that_says_again(tmp_path, settings):
    config = flagfile(tmp_path / "run.flags", settings, "--epochs=100000")
    process = start(config)
    run = RunFolder(tmp_path / "run")
    while not run.has_model:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - sent < 30
    assert process.returncode == Stopped.CODE == 75
    lines = [line for line in told.splitlines() if line.startswith("pretrain")]
    assert lines[-1] == "pretrain.py: stopped by SIGTERM; repeat the command to go on"
    assert "Traceback" not in told


def by_plan(folder, settings, plans, *flags):
    """Runs of tests/faults/devices_program.py: {name: plan} -> run folders in that order."""
    for name, (plan, kills) in plans.items():
        config = flagfile(folder / f"{name}.flags", settings, "--checkpoint_steps=1", *flags)
        killed = 0
        for part in plan.split(","):  # TensorFlow takes one number of devices in a process
            process = start(config, "tests/faults/devices_program.py", PLAN=part)
            out, told = process.communicate(timeout=400)
            assert process.returncode == 0, out + told
            killed += out.count("killed")
        assert killed == kills
    return [RunFolder(folder / name) for name in plans]


def records_agree(one, other, tolerance):
    assert len(one.records()) == len(other.records()) > 1
    for ours, theirs in zip(one.records(), other.records(), strict=True):
        for name in set(ours) - {"seconds", "images_per_second"}:
            np.testing.assert_allclose(theirs[name], ours[name], tolerance, err_msg=name)


@pytest.mark.slow
def test_resumed_on_two_devices_in_the_middle_of_an_epoch(tmp_path, settings):
    """The means of an epoch live on both devices; a resumed run has the record of a whole one."""
    plans = {"whole": ("2:", 0), "stopped": ("2:2,2:", 1)}
    records_agree(*by_plan(tmp_path, settings, plans), 1e-5)


@pytest.mark.slow
def test_resumed_on_another_number_of_devices(tmp_path, settings):
    """1, 2, 4 and 1 again, in the middle of epochs: masker, queue, EMA copies, two optimizers."""
    plans = {"whole": ("1:", 0), "moved": ("1:2,2:3,4:3,1:", 3)}
    flags = "--epochs=3 --objective=moco --queue_size=16 --masking=adversarial_one --num_masks=2"
    flags += " --masker_base=4 --masker_blocks=2 --masker_norm=no --optimizer=sgd"
    whole, moved = by_plan(tmp_path, settings, plans, *flags.split())
    records_agree(whole, moved, 1e-4)
    one, other = (
        tf.train.load_checkpoint(str(run.checkpoints / "ckpt-9" / "weights"))
        for run in (whole, moved)
    )
    names = [n for n in one.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
    for name in names:
        np.testing.assert_allclose(
            other.get_tensor(name), one.get_tensor(name), rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_deterministic_runs_are_alike(tmp_path, settings):
    found = []
    for name in ("one", "two"):
        process = start(flagfile(tmp_path / f"{name}.flags", settings, "--deterministic"))
        out, told = process.communicate(timeout=300)
        assert process.returncode == 0, out + told
        found.append((tmp_path / name / "metrics.jsonl").read_text().splitlines())
    times = ("seconds", "images_per_second")
    one, two = (
        [{k: v for k, v in json.loads(line).items() if k not in times} for line in lines]
        for lines in found
    )
    assert one == two
