"""Makes images of every kind, whole and damaged, reads them, and tells what came of it.

    python tests/faults/fuzz_images_program.py --state=DIR [--images=2000] [--no-folders]
        [--page=docs/reliability.md]

Every image goes through the reader of training and of adios-masks, in this process: a whole one
must give the pixels that it was made of, a damaged one those pixels or one line, nothing may raise
or take more memory than BOUND. Then whole folders go through bin/pretrain.py. Stopped and started
again with the same --state it goes on. Exit code 1 if anything was wrong.
"""

import argparse
import collections
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np
from odd_images import DAMAGED, REFUSED, WHOLE, some_whole
from outcomes import PAGE, write_rows

from adios_tf.data import checks, folders
from adios_tf.errors import UserError
from adios_tf.reporting.tables import append_jsonl, read_jsonl

BOUND = 1024  # MB that reading one image may take
FILES = ("symlink loop", "gone", "a folder", "name that is not UTF-8")
KINDS = (*WHOLE, *DAMAGED, *FILES)
MEANING = {
    "right": "right pixels",
    "refused": "refused in one line",
    "changed": "pixels changed unseen",
}

# ---------------------------------------------------------------------- trials


def made(kind, rng, folder):
    """Writes one image; returns its path, what must come of it, and a tolerance."""
    maker = WHOLE.get(kind) or DAMAGED.get(kind) or some_whole
    content, ending, expected, tolerance = maker(rng)
    odd = rng.bytes(8).replace(b"/", b"_").replace(b"\0", b"_") + b"\xff"
    name = (b"x" + odd if kind == FILES[-1] else b"image") + b"." + ending.encode()
    path = folder / os.fsdecode(name)
    if kind == "symlink loop":
        path.symlink_to(path.name)
    elif kind == "a folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(content)
    return path, REFUSED if kind in FILES[:3] else expected, tolerance


def peak(reset=False):
    """The most memory that this process had since the last reset, in MB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def judged(kind, path, expected, tolerance):
    """Reads it as training and masks do; returns (outcome, what is wrong or "")."""
    try:
        pixels = folders.read_pixels(path)
        again = None
        try:
            again, _ = checks.reader((os.fspath(path),), skip_broken=False)(0)
        except UserError as error:
            line = str(error)
    except BaseException as error:
        return "raised", f"{type(error).__name__}: {error}"
    if isinstance(pixels, str):
        line.encode()
        if again is not None or pixels not in line or not line.isprintable():
            return "refused", f"not one line: {line!r}"
        whole = kind in WHOLE or kind == FILES[-1]
        return "refused", f"refused: {pixels}" if whole else ""
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or (again != pixels).any():
        return "changed", "no pixels, or not the same again"
    if isinstance(expected, str):
        return "changed", "it should have been refused" if expected == REFUSED else ""
    if pixels.shape != expected.shape or np.abs(expected - pixels.astype(float)).max() > tolerance:
        return "changed", "other pixels than it was made of"
    return "right", ""


def trial(n, folder):
    """Makes and reads the n-th image; returns the record of it."""
    kind, rng = KINDS[n % len(KINDS)], np.random.default_rng(n)
    path, expected, tolerance = made(kind, rng, folder)
    before = peak(reset=True)
    outcome, wrong = judged(kind, path, expected, tolerance)
    memory = peak() - before
    if memory > BOUND:
        wrong = wrong or f"it took {memory:.0f} MB"
    return {"image": kind, "outcome": outcome, "megabytes": round(memory, 1), "wrong": wrong}


# ---------------------------------------------------------------------- whole folders

FLAGS = (
    "--plugins=tiny_encoder --backbone=tiny --image_size=16 --batch_size=8 --warmup_epochs=0 "
    "--hidden_dim=8 --output_dim=8 --objective=simclr --masking=none --picture_every=0 --cache=no"
).split()


def fill(root, kinds, number, seed):
    """Writes so many images of each kind, in two classes; returns their paths."""
    rng, paths = np.random.default_rng(seed), []
    for kind in kinds:
        for n in range(number):
            folder = root / f"class {n % 2}" / kind.replace("/", " ") / str(n)
            folder.mkdir(parents=True)
            paths.append(made(kind, rng, folder)[0])
    return paths


def pretrain(root, run_dir, *flags, victim=None):
    """Runs bin/pretrain.py, a file deleted once there is a checkpoint; returns (code, out, err)."""
    command = [sys.executable, str(HERE.parents[1] / "bin/pretrain.py"), *FLAGS, *flags]
    command += [f"--dataset={root}", f"--run_dir={run_dir}"]
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while victim is not None and process.poll() is None:
        time.sleep(0.05)
        if list(run_dir.glob("checkpoints/ckpt-*/weights.index")):
            victim.unlink(missing_ok=True)
            victim = None
    out, err = process.communicate()
    return out, err, process.returncode


def whole_folders(state, done):
    """Runs over folders of such images; yields {"folder", "code", "told", "wrong"} of the rest."""
    mixed = (*WHOLE, *DAMAGED, "symlink loop")
    cases = {
        "whole images of every kind": (WHOLE, ["--epochs=2"], False, 0, "epoch 2: "),
        "names that are not UTF-8": ([FILES[-1]], ["--epochs=2"], False, 0, "epoch 2: "),
        "damaged ones among them": (mixed, ["--epochs=2"], False, 2, "cannot read image "),
        "the same, `--skip_broken`": (
            mixed,
            ["--epochs=2", "--skip_broken"],
            False,
            0,
            "left out ",
        ),
        "one vanishes": (WHOLE, ["--epochs=3000"], True, 2, "; the run goes on from ckpt-"),
        "one vanishes, `--skip_broken`": (
            WHOLE,
            ["--epochs=8", "--skip_broken"],
            True,
            0,
            "unreadable by now: 1 of ",
        ),
    }
    for n, (name, (kinds, flags, vanishing, code, line)) in list(enumerate(cases.items()))[done:]:
        root = state / f"folder{n}"
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(state / f"run{n}", ignore_errors=True)
        paths = fill(root, kinds, 24 if len(kinds) == 1 else 2, n)
        victim = paths[3] if vanishing else None
        out, err, left = pretrain(root, state / f"run{n}", *flags, victim=victim)
        [told] = [text for text in (out + err).splitlines() if line in text][:1] or [""]
        wrong = "" if told and left == code else f"exit code {left}: {err[-500:] or out[-500:]}"
        if "Traceback" in err + out:
            wrong = "a traceback"
        yield {"folder": name, "code": left, "told": told.replace(f"{state}/", ""), "wrong": wrong}


# ---------------------------------------------------------------------- the page


def write_page(page, trials, runs):
    """Writes a row per kind of image and per folder; returns 1 if anything was wrong."""
    groups = collections.defaultdict(list)
    for record in trials:
        groups[record["image"]].append(record)
    rows = []
    for kind, group in groups.items():
        counts = collections.Counter("WRONG" if r["wrong"] else r["outcome"] for r in group)
        told = ", ".join(f"{number} {MEANING.get(what, what)}" for what, number in counts.items())
        most = max(r["megabytes"] for r in group)
        rows.append((f"image: {kind}", len(group), f"{told}; {most:.0f} MB at most"))
    for run in runs:
        right = f"exit code {run['code']}, one line" if run["code"] else "trains to the end"
        rows.append((f"folder: {run['folder']}", 1, "WRONG" if run["wrong"] else right))
    write_rows(page, "fuzz_images_program.py", rows)
    return int(any(r["wrong"] for r in [*trials, *runs]))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--state", type=Path, required=True)
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--folders", action=argparse.BooleanOptionalAction, default=True)
    arguments.add_argument("--page", type=Path, default=PAGE)
    given = arguments.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    record, runs = given.state / "images.jsonl", given.state / "folders.jsonl"
    shown = os.dup(2)
    os.dup2(os.open(given.state / "stderr", os.O_WRONLY | os.O_CREAT), 2)  # libtiff's remarks
    for n in range(len(read_jsonl(record)), given.images):
        folder = given.state / f"image{n}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        found = trial(n, folder)
        append_jsonl(record, found)
        if found["wrong"]:
            print(f"{n} {found['image']}: {found['wrong']}", flush=True)
        else:
            shutil.rmtree(folder)
    os.dup2(shown, 2)
    for found in whole_folders(given.state, len(read_jsonl(runs))) if given.folders else ():
        append_jsonl(runs, found)
        print(f"{found['folder']}: {found['wrong'] or found['told']}", flush=True)
    sys.exit(write_page(given.page, read_jsonl(record), read_jsonl(runs)))


if __name__ == "__main__":
    main()
