"""Kills and damages runs again and again, and writes what came of it into docs/reliability.md.

    python tests/faults/soak_program.py --state=DIR [--kills=150] [--saves=50] [--damaged=50]
        [--minutes=0] [--page=docs/reliability.md]

Every trial ends with a resumed run that must equal one that nothing stopped: all variables, the
records but for times, and the weights in model/, bit for bit. Stopped and started again with the
same --state it goes on. Exit code 1 if a trial failed; its run folder is kept then.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np
import tensorflow as tf
from outcomes import PAGE, write_rows
from PIL import Image

from adios_tf import pretrained
from adios_tf.cli import parse
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.reporting.tables import append_jsonl, read_jsonl, write_text
from adios_tf.run_folder import RunFolder
from adios_tf.training import run as training
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig

FLAGS = (
    "--plugins=tiny_encoder --backbone=tiny --image_size=16 --batch_size=8 --epochs=2 --seed=1 "
    "--warmup_epochs=0 --hidden_dim=8 --output_dim=8 --predictor_dim=8 --objective=byol "
    "--masking=adversarial_one --num_masks=2 --masker_base=4 --masker_blocks=2 --masker_norm=no "
    "--picture_every=0 --learning_rate=0.05 --checkpoint_steps=1 --devices=1"
).split()
KINDS = ("killed at any instant", "killed inside a checkpoint write", "killed inside a model save")
DAMAGE = ("truncated", "bit flipped", "deleted", "emptied")
ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def images(root):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for n in range(12):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{n:02d}.png")


# ---------------------------------------------------------------------- in a child


def outcome(run_dir):
    """What two runs must agree on."""
    run = RunFolder(run_dir)
    [newest] = [path for _, path in list(Checkpoints.steps_in(run.checkpoints).items())[-1:]]
    reader = tf.train.load_checkpoint(str(newest / "weights"))
    total = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if name.endswith("VARIABLE_VALUE"):
            total.update(name.encode() + np.asarray(reader.get_tensor(name)).tobytes())
    weights = hashlib.sha256()
    for part in pretrained.load(run_dir).parts().values():
        for value in part.get_weights():
            weights.update(value.tobytes())
    times = ("seconds", "images_per_second")
    records = [{k: v for k, v in r.items() if k not in times} for r in run.records()]
    return {"variables": total.hexdigest(), "model": weights.hexdigest(), "records": records}


def killed_inside(owner, name, call, event_number):
    """Sends SIGKILL to this process at a file operation of the call-th call of a function."""
    original, state = getattr(owner, name), {"calls": 0, "left": 0}

    def hook(event, _):
        if state["left"] and event in FILE_EVENTS:
            state["left"] -= 1
            if not state["left"]:
                os.kill(os.getpid(), signal.SIGKILL)

    @functools.wraps(original)
    def counted(*args, **kwargs):
        state["calls"] += 1
        state["left"] = event_number if state["calls"] == call else 0
        result = original(*args, **kwargs)
        if state["calls"] == call:  # it had fewer operations: killed right after it
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    sys.addaudithook(hook)
    setattr(owner, name, counted)


def child(data, run_dir, log, before=lambda: None):
    """Forks a process that runs to the end and writes its outcome; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    with contextlib.suppress(BaseException):
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        training.draw_curves = training.write_report = lambda *_: None
        OnlineEvaluator.before = OnlineEvaluator.after = lambda self: {}
        before()
        try:
            training.pretrain(
                parse(PretrainConfig, [*FLAGS, f"--dataset={data}", f"--run_dir={run_dir}"])
            )
            write_text(f"{run_dir}.json", json.dumps(outcome(run_dir)))
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
    os._exit(code)


# ---------------------------------------------------------------------- trials


def finish(data, run_dir, log):
    """Resumes to the end; returns the outcome, or what went wrong."""
    _, status = os.waitpid(child(data, run_dir, log), 0)
    if status:
        lines = Path(log).read_text(errors="replace").strip().splitlines()
        return f"the resumed run failed: {lines[-1] if lines else status}"
    return json.loads(Path(f"{run_dir}.json").read_text())


def newest(run_dir):
    """Updates after which the newest checkpoint was written; 0 if there is none."""
    return max(Checkpoints.steps_in(run_dir / "checkpoints"), default=0)


def trial_of_kill(kind, data, run_dir, log, seconds, rng):
    if kind == KINDS[0]:
        # By checkpoints, not by the clock: on a busy machine a run has hardly begun by then.
        process, updates = child(data, run_dir, log), rng.randrange(7)
        while newest(run_dir) < updates and not os.waitid(os.P_PID, process, ENDED):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds / 7))
        os.kill(process, signal.SIGKILL)
    else:
        place = (Checkpoints, "save", rng.randint(1, 6), rng.randint(1, 16))
        if kind == KINDS[2]:
            place = (pretrained, "save", rng.randint(1, 2), rng.randint(1, 24))
        process = child(data, run_dir, log, functools.partial(killed_inside, *place))
    os.waitpid(process, 0)
    return finish(data, run_dir, log)


def damage(file, kind, rng):
    content = bytearray(file.read_bytes())
    if kind == "deleted":
        file.unlink()
        return
    if kind == "bit flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = content[: rng.randrange(1, len(content)) if kind == "truncated" else 0]
    file.write_bytes(content)


def trial_of_damage(kind, template, data, run_dir, log, rng):
    shutil.copytree(template, run_dir)
    newest = list(Checkpoints.steps_in(run_dir / "checkpoints").values())[-1]
    damage(rng.choice(sorted(newest.iterdir())), kind, rng)
    found = finish(data, run_dir, log)
    if f"{newest.name} is damaged" not in Path(log).read_text(errors="replace"):
        return "the damage was not named"
    return found


def whole_run(state, data):
    """Returns the outcome of a run that nothing stopped and its seconds; makes the template."""
    whole, log = state / "whole", state / "whole.log"
    expected = finish(data, whole, log)
    assert isinstance(expected, dict), expected
    shutil.rmtree(state / "again", ignore_errors=True)
    begun = time.monotonic()
    assert finish(data, state / "again", log) == expected, "two whole runs differ"
    seconds = time.monotonic() - begun
    template = state / "template"
    if not template.exists():  # killed before its fifth checkpoint of six: 3 and 4 are there
        half = state / "half"
        shutil.rmtree(half, ignore_errors=True)
        stop = functools.partial(killed_inside, Checkpoints, "save", 5, 1)
        os.waitpid(child(data, half, log, stop), 0)
        half.rename(template)
    return expected, seconds


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--state", type=Path, required=True)
    for name, default in (("kills", 150), ("saves", 50), ("damaged", 50)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--minutes", type=float, default=0, help="stop then; 0 = never")
    arguments.add_argument("--page", type=Path, default=PAGE)
    given = arguments.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    data, record = given.state / "images", given.state / "trials.jsonl"
    if not data.exists():
        images(data)
    started = time.monotonic()

    plan = [KINDS[0]] * given.kills
    plan += [KINDS[1 + n % 2] for n in range(given.saves)]
    plan += [DAMAGE[n % len(DAMAGE)] for n in range(given.damaged)]
    random.Random(0).shuffle(plan)
    done, left = collections.Counter(trial["fault"] for trial in read_jsonl(record)), []
    for n, kind in enumerate(plan):
        fault = kind if kind in KINDS else f"newest checkpoint {kind}"
        done[fault] -= 1
        left += [(n, kind, fault)] if done[fault] < 0 else []
    expected, seconds = whole_run(given.state, data) if left else ({}, 0)
    template = given.state / "template"
    for n, kind, fault in left:
        if given.minutes and time.monotonic() - started > 60 * given.minutes:
            break
        rng, run_dir, log = random.Random(n), given.state / f"run{n}", given.state / f"run{n}.log"
        shutil.rmtree(run_dir, ignore_errors=True)
        log.unlink(missing_ok=True)
        if kind in KINDS:
            found = trial_of_kill(kind, data, run_dir, log, seconds, rng)
        else:
            found = trial_of_damage(kind, template, data, run_dir, log, rng)
        text = log.read_text(errors="replace")
        resumed = re.findall(r"resuming \S+ after (\d+) updates", text)
        wrong = "" if found == expected else found if isinstance(found, str) else "not equal"
        if "Traceback" in text:
            wrong = "a traceback"
        append_jsonl(record, {"fault": fault, "resumed": resumed[-1:], "wrong": wrong})
        print(f"{n + 1}/{len(plan)} {fault}: {wrong or 'equal'}", flush=True)
        if not wrong:
            shutil.rmtree(run_dir)
            log.unlink()
            Path(f"{run_dir}.json").unlink(missing_ok=True)
    sys.exit(write_page(given.page, read_jsonl(record)))


def write_page(page, trials):
    """Writes one row per fault; returns 1 if a trial failed."""
    groups = collections.defaultdict(list)
    for trial in trials:
        groups[trial["fault"]].append(trial)
    rows = []
    for fault, group in sorted(groups.items()):
        resumed = sum(bool(trial["resumed"]) for trial in group)
        equal = sum(not trial["wrong"] for trial in group)
        outcome = f"{equal} equal to the whole run; {resumed} went on from a checkpoint"
        rows.append((fault, len(group), outcome))
    write_rows(page, "soak_program.py", rows)
    return int(any(trial["wrong"] for trial in trials))


if __name__ == "__main__":
    main()
