"""How a run starts, in this order: continue its own last checkpoint, take weights, start fresh."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import tensorflow as tf
from tqdm import tqdm

import adios_tf
from adios_tf import cli, pretrained
from adios_tf.errors import UserError
from adios_tf.run_folder import RunFolder
from adios_tf.training.changes import changes, check_data
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.config import PretrainConfig
from adios_tf.training.lock import LOCK
from adios_tf.training.pretrainer import Pretrainer
from adios_tf.training.workers import exchange, is_chief, together

PACKAGES = ("tensorflow", "keras", "keras-cv", "tensorflow-datasets", "numpy")


def check_folder(config: PretrainConfig, run: RunFolder, checkpoints: Checkpoints) -> None:
    """Refuses a folder that cannot be begun or resumed, before anything is written.

    Raises:
      UserError: says why.
    """
    run_dir = run.path
    begun = run.flags.exists() or checkpoints.exist
    if begun and not config.resume:
        raise UserError(
            f"{run_dir} holds a run already and --resume is off: nothing was overwritten; take a "
            "new --run_dir or remove the folder"
        )
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file: take another --run_dir (nothing was written)")
    ours = begun or (run_dir / LOCK).exists()  # killed before its first file
    if not ours and run_dir.exists() and any(run_dir.iterdir()):
        raise UserError(
            f"{run_dir} is not empty and holds no run: take a new --run_dir (nothing was written)"
        )
    if begun and run.has_model and not checkpoints.exist:
        raise UserError(
            f"the checkpoints of {run_dir} are gone: bring them back, or take a new --run_dir with "
            f"--init_from={run_dir}, which starts from its model/ (nothing was written)"
        )


def start_run(config: PretrainConfig, run: RunFolder, checkpoints: Checkpoints) -> int:
    """Resumes the run or begins its folder; returns the number of updates already done."""
    resumed = checkpoints.exist
    changed = changes(config, run) if resumed and run.flags.exists() else {}
    done = 0
    if resumed:
        checkpoints.tidy()
        done = checkpoints.restore()
        check_data(config, checkpoints.saved_data, checkpoints.data, run)
        tqdm.write(f"resuming {run.path} after {done} updates")
    run.tidy()
    run.begin(None if run.flags.exists() and resumed else cli.flag_lines(config), environment())
    if changed:
        run.add_change(done, changed)
    # An epoch's record is written before its last checkpoint; without that, it is written anew.
    last = done - 1 if checkpoints.epoch.get("open") else done
    run.replace_records(record for record in run.records() if (record.get("step") or 0) <= last)
    return done


def follow(run: RunFolder, checkpoints: Checkpoints, done: int) -> int:
    """Brings every worker to where the chief, after `done` updates, starts; returns these.

    Raises:
      UserError: a worker does not see the chief's run folder, or cannot read that checkpoint.
    """
    strategy, lock = checkpoints.model.distribute_strategy, run.path / LOCK
    locks = exchange(strategy, lock.read_text(encoding="utf-8") if lock.exists() else "")
    done = int(exchange(strategy, str(done))[0])
    apart = [str(n) for n, text in enumerate(locks) if text != locks[0]]
    if apart:
        raise UserError(
            f"worker {', '.join(apart)} does not see the run folder {run.path} that worker 0 "
            "writes: put --run_dir on a file system that all workers share"
        )
    with together(strategy):
        if done and not is_chief(strategy) and checkpoints.restore(done, False) != done:
            raise UserError(f"cannot read ckpt-{done} of {run.path}, which worker 0 goes on from")
    return done


def bring_weights(config: PretrainConfig, model: Pretrainer) -> None:
    """Copies the weights of another run's networks into this one's."""
    source = pretrained.load(config.init_from)
    objective = model.objective
    for fact in ("stem", "padding"):
        theirs = source.info.get(fact, getattr(config, fact))
        if theirs != getattr(config, fact):
            raise UserError(
                f"--init_from={config.init_from} was built with --{fact}={theirs}: pass the same"
            )
    parts = [("encoder", source.encoder, objective.encoder)]
    if config.init_parts == "all":
        parts += [("projector", source.projector, objective.projector)]
        if source.predictor is not None and objective.predictor is not None:
            parts += [("predictor", source.predictor, objective.predictor)]
        if source.masker is not None and model.masking.masker is not None:
            parts += [("masker", source.masker, model.masking.masker)]
    for name, theirs, ours in parts:
        if theirs is None:
            raise UserError(
                f"--init_from={config.init_from} has no {name}: pass --init_parts=encoder"
            )
        given, wanted = theirs.weights, ours.weights
        if [tuple(v.shape) for v in given] != [tuple(v.shape) for v in wanted]:
            raise UserError(
                f"--init_from={config.init_from}: its {name} is of another architecture; repeat "
                "that run's --backbone, --stem, widths and --num_masks, or pass "
                "--init_parts=encoder"
            )
        for slow, fast in zip(wanted, given, strict=True):
            slow.assign(fast)
    for part in ("encoder", "projector") if hasattr(objective, "target_encoder") else ():
        slow = getattr(source, f"target_{part}", None) if config.init_parts == "all" else None
        weights = (slow or getattr(objective, part)).get_weights()
        getattr(objective, f"target_{part}").set_weights(weights)
    tqdm.write(f"weights of {', '.join(name for name, _, _ in parts)} from {config.init_from}")


def environment() -> dict[str, Any]:
    """Returns what is needed to repeat a run: command, commit, packages, machine."""
    root = Path(__file__).resolve().parents[2]
    commit = ""
    if (root / ".git").exists():  # else git would answer for whatever lies around the package
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": " ".join(sys.argv),
        "version": adios_tf.__version__,
        "commit": commit or "unknown",
        "python": sys.version.split()[0],
        "devices": [d.device_type for d in tf.config.list_logical_devices()],
        "packages": {package: metadata.version(package) for package in PACKAGES},
    }
