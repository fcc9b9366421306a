"""Several workers: one writes, all end alike, and what is started again goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from adios_tf.cli import flag_lines
from adios_tf.distribution import strategy_for
from adios_tf.errors import UserError
from adios_tf.run_folder import RunFolder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{HERE}"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def same(one, other):
    """Records but for times, and every tensor of the newest checkpoints, to the bit."""
    records, tensors = [], []
    for run_dir in (one, other):
        records.append(RunFolder(run_dir).records())
        newest = max((run_dir / "checkpoints").glob("ckpt-*"), key=lambda p: int(p.name[5:]))
        reader = tf.train.load_checkpoint(str(newest / "weights"))
        names = [n for n in reader.get_variable_to_shape_map() if n.endswith("VARIABLE_VALUE")]
        tensors.append({name: reader.get_tensor(name) for name in names})
    assert len(records[0]) == len(records[1])
    for ours, theirs in zip(*records, strict=True):
        for name in set(ours) - {"seconds", "images_per_second"}:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-6, err_msg=name)
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[0].items():
        np.testing.assert_array_equal(tensors[1][name], value, err_msg=name)


def free_ports():
    """Two ports that nothing listens on."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, two)]


def outcomes(wanted, root, settings, folder):
    """{run: (exit code, line, files written, updates)} of each of the two workers."""
    flags = [f for f in flag_lines(settings(root)) if not f.startswith(("--run_dir", "--dataset="))]
    addresses = [f"127.0.0.1:{port}" for port in free_ports()]
    processes = []
    for index in (0, 1):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [HERE / "workers_program.py", wanted, root, folder, *flags]
        processes.append(start(command, TF_CONFIG=json.dumps(task)))
    found = []
    for process in processes:
        out, told = process.communicate(timeout=300)
        assert process.returncode == 0, out + told
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
        found.append({name: outcome for name, *outcome in lines})
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def workers(root, settings, folder):
    """What most can go wrong, in one pair of processes."""
    return outcomes("other flags,another folder,stopped", root, settings, folder)


def test_flags_that_differ_are_named_on_every_worker(root, workers):
    for worker in workers:
        code, line, written, updates = worker["other flags"]
        assert (code, written, updates) == (2, [], 0)
        assert "--learning_rate is 0.05 on worker 0, 0.06 on worker 1" in line
        assert "--seed is 0 on worker 0, 3 on worker 1" in line
        assert line.endswith("start all workers alike (nothing was written)")
    assert not (root / "flags").exists()


def test_a_worker_without_the_shared_folder_is_named(root, workers):
    for worker in workers:
        code, line, _, updates = worker["another folder"]
        assert (code, updates) == (2, 0)
        assert "worker 1 does not see the run folder" in line
        assert line.endswith("put --run_dir on a file system that all workers share")
    assert not (root / "apart1").exists()


def test_a_signal_to_one_worker_stops_all_after_the_same_update(root, workers):
    chief, other = (worker["stopped"] for worker in workers)
    ends = "repeat the command to go on"
    assert other[:2] == [75, f"stopped by SIGTERM; {ends}"]
    assert chief[:2] == [75, f"stopped by a signal to another worker; {ends}"]
    assert chief[3] == other[3] == 3  # it came at the end of the second
    assert [path.name for path in (root / "stopped" / "checkpoints").iterdir()] == ["ckpt-3"]


def test_only_the_chief_writes(root, workers):
    chief, other = workers
    assert any("flags" in path for path in chief["stopped"][2])
    assert all(written == [] for _, _, written, _ in other.values())
    assert len(list((root / "stopped" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_what_was_stopped_goes_on_and_an_error_of_the_chief_ends_all(tmp_path, settings, folder):
    wanted = "whole,stopped,resumed,full disk"
    chief, other = outcomes(wanted, tmp_path, settings, folder)
    assert chief["whole"][::3] == other["whole"][::3] == [0, 6]
    assert chief["resumed"][::3] == other["resumed"][::3] == [0, 3]
    same(tmp_path / "stopped", tmp_path / "whole")
    assert all(written == [] for _, _, written, _ in other.values())
    assert chief["full disk"][0] == other["full disk"][0] == 2
    assert "No space left on device" in chief["full disk"][1]
    assert other["full disk"][1].startswith("worker 0 ended: [Errno 28] No space left on device")


# ---------------------------------------------------------------------- Slurm


def slurm(index, job=7):
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_PROCID": str(index),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }


def test_slurm_names_the_workers(monkeypatch):
    """As TF_CONFIG would; a job has a range of ports of its own."""
    made = []
    monkeypatch.setattr(
        tf.distribute, "MultiWorkerMirroredStrategy", lambda: made.append(os.environ["TF_CONFIG"])
    )
    monkeypatch.setenv("TF_CONFIG", "")
    variables = slurm(3) | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    for name, value in (variables | {"SLURM_STEP_NODELIST": "n[08-09]"}).items():
        monkeypatch.setenv(name, value)
    strategy_for(cluster="slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    strategy_for(cluster="slurm")
    one, other = map(json.loads, made)
    assert one["task"] == {"type": "worker", "index": 3}
    assert one["cluster"] == {"worker": ["n08:10112", "n08:10113", "n09:10112", "n09:10113"]}
    assert other["cluster"]["worker"][0] == "n08:10128"


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST"])
def test_missing_slurm_variables_are_named(monkeypatch, missing):
    monkeypatch.setenv("TF_CONFIG", "")
    for name, value in slurm(0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(UserError, match=f"{missing}.*start it by srun"):
        strategy_for(cluster="slurm")


@pytest.fixture(scope="module")
def job(root, settings):
    """Starts both tasks of a job of bin/pretrain.py, until it has done so many epochs."""
    number = [int(time.time()) % 1000]

    def started(run_dir, epochs_done=0):
        flags = flag_lines(settings(run_dir, "--cluster=slurm", "--epochs=12"))
        number[0] += 1
        command = [ROOT / "bin/pretrain.py", *flags]
        tasks = [start(command, **slurm(index, number[0])) for index in (0, 1)]
        while epochs_done and len(RunFolder(run_dir).records()) < epochs_done:
            for task in tasks:
                assert task.poll() is None, task.communicate()
            time.sleep(0.05)
        return tasks

    return started


def ended(task, code):
    _, told = task.communicate(timeout=90)
    assert task.returncode == code, told
    assert "Traceback" not in told
    return [line for line in told.splitlines() if line.startswith("pretrain.py: ")]


@pytest.mark.slow
def test_a_job_is_requeued(tmp_path, job):
    """SIGTERM to all tasks, as Slurm sends it; then a task is killed, then the chief."""
    for task in job(tmp_path / "whole"):
        assert ended(task, 0) == []
    run_dir = tmp_path / "stopped"
    tasks = job(run_dir, epochs_done=1)
    for task in tasks:
        task.send_signal(signal.SIGTERM)
    lines = ["pretrain.py: stopped by SIGTERM; repeat the command to go on"]
    assert [ended(task, 75) for task in tasks] == [lines, lines]
    for killed, epochs_done in ((1, 4), (0, 7)):
        tasks = job(run_dir, epochs_done)
        tasks[killed].kill()
        at = time.monotonic()
        [line] = ended(tasks[1 - killed], 75)
        assert time.monotonic() - at < 30
        assert line.startswith("pretrain.py: another worker was lost")
        tasks[killed].communicate()
    for task in job(run_dir):
        assert ended(task, 0) == []
    same(run_dir, tmp_path / "whole")
