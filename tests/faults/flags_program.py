"""Runs the programs with random flags, and writes what came of it into docs/reliability.md.

    python tests/faults/flags_program.py --state=DIR [--combinations=1000] [--evaluations=200]
        [--exports=60] [--minutes=0] [--page=docs/reliability.md]

Every combination is drawn of all flags of a program's settings, sensible and absurd values alike,
from the number of the combination alone. Each must do what it is for (pretraining: at least an
update, finite records, a model) or be refused with exit code 2 and one line. Stopped and started
again with the same --state it goes on. Exit code 1 if a combination did anything else; what it
printed is kept then.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import keras
import numpy as np
import tensorflow as tf
from outcomes import PAGE, write_rows
from PIL import Image
from tqdm import tqdm

from adios_tf import cli
from adios_tf.data import evaluation_dataset, normalize
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.corruptions import CORRUPTIONS
from adios_tf.evaluation.online import OnlineEvaluator
from adios_tf.evaluation.protocols import PROTOCOLS
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.programs import evaluate, export, masks, pretrain
from adios_tf.reporting.tables import append_jsonl, read_jsonl
from adios_tf.training import run as training
from adios_tf.training.config import PretrainConfig
from adios_tf.training.pretrainer import Pretrainer

# What costs time and is not the question; a drawn flag overrides it.
TINY = (
    "--dataset=classes --data_dir=prepared --plugins=tiny_encoder --backbone=tiny --image_size=16 "
    "--batch_size=4 --train_images=8 --epochs=1 --warmup_epochs=0 --hidden_dim=8 --output_dim=8 "
    "--predictor_dim=8 --queue_size=16 --num_masks=2 --masker_base=4 --masker_blocks=2 "
    "--masker_norm=no --picture_every=0 --picture_images=2 --knn_train_images=8 "
    "--knn_test_images=4 --devices=1"
).split()
FEW = (
    "--run=run --data_dir=prepared --train_images=12 --test_images=6 --protocols=knn --knn_k=3 "
    "--sgd_epochs=2 --sgd_decay_epochs=1 --finetune_epochs=1 --finetune_steps=2 --cluster_starts=1"
).split()
DATA = ("classes", "divided", "flat", "mini", "one_image")
# Values that mean something, where a flag's type and bounds do not tell them.
MEANINGFUL = {
    "dataset": DATA[:4],
    "plugins": ("tiny_encoder",),
    "objective": tuple(OBJECTIVES),
    "masking": tuple(MASKINGS),
    "fill": tuple(FILLS),
    "backbone": (*("tiny",) * 30, *("convnet_small",) * 3, "vit_tiny", "resnet18"),
    "image_size": tuple(range(8, 34)),
    "batch_size": tuple(range(1, 10)),
    "train_images": (0, 8, 12, 24),
    "epochs": (1, 2),
    "train_split": ("", "train", "train[:50%]", "train[4:]"),
    "test_split": ("", "test", "test[:4]", "train[50%:]"),
    "class_list": ("", "", "names.txt"),
    "data_dir": ("prepared",) * 3 + ("",),
    "init_from": ("run",),
    "budget": ("0.2", "0.3,0.2", "0.5", "0.1,0.2,0.3"),
    "milestones": ("1", "0", "1,2"),
    "allow_changes": ("seed", "seed,epochs"),
    "clean_weight": (-1.0, 0.0, 0.5, 2.0),
    "entropy_weight": (-1.0, 0.0, 0.5),
    "learning_rate": (1e-3, 0.01, 0.1, 0.4),
    "masker_learning_rate": (1e-3, 0.01, 0.1),
    "hidden_dim": (1, 4, 16, 33),
    "output_dim": (1, 2, 5, 16),
    "predictor_dim": (1, 4, 16),
    "queue_size": (1, 8, 17, 64),
    "devices": (0, 1),
    "replay": (1, 2),
    "num_masks": (1, 2, 2, 3, 4),
    "masker_base": (1, 2, 4, 8),
    "masker_blocks": (0, 2, 2, 3, 3, 5),
    "grid_size": (2, 3, 4, 8),
    "patch_size": (1, 2, 4, 8, 16),
    "high_pass": (0, 3, 5, 11),
    "seed": (0, 1, 2**31),
    "run": ("run", "run", "run", "export"),
    "images": ("classes", "flat", "divided"),
    "out": ("out",),
    "compare": ("", "", "", "run", "run,run"),
    "name": ("", "again"),
    "protocols": tuple(PROTOCOLS),
    "seeds": ("0", "0,1"),
    "mean": ("", "0.5,0.5,0.5"),
    "std": ("", "0.25,0.25,0.25"),
    "knn_k": ("1", "3,5", "200"),
    "knn_distance": ("cosine", "euclidean", "cosine,euclidean"),
    "background_variants": ("test_only_fg", ""),
    "backgrounds_dir": ("", "classes"),
    "corruptions": tuple(CORRUPTIONS),
    "severities": ("1", "1,5"),
    "label_fractions": ("0.5", "0.1,1"),
    "kinds": ("png", "npz", "overlay", "png,npz,overlay"),
    "format": ("saved_model", "keras", "weights", "keras,weights"),
}
TYPOS = {
    int: ("1.5", "nan", "", "many", "1e3"),
    float: ("", "much", "1,5"),
    bool: ("maybe", "", "2"),
    str: (),
    tuple: ("a b", "inf,0.5"),
}
ABSURD = {
    int: ("-1", "0", "1000000000", str(2**63)),
    float: ("-1", "0", "nan", "inf", "1e38", "1e-45"),
    bool: (),
    str: ("", "no_such_name", "-1", "é", "x" * 5000, "a/b:c[d]"),
    tuple: (",", "nan", "-1", "no_such_name", "1,2,3,4,5,6,7"),
}
UNKNOWN = (
    "--no_such_flag=1",
    "stray",
    "--flagfile=gone.flags",
    "--recipe=gone",
    "-x",
    "--",
    "--=1",
)
# Of these flags other absurd values; so many epochs would be a long run, but no mistake.
PLACES = {
    "epochs": ("-1", "0", "1.5", "2x", "nan"),
    "run_dir": ("run_file", "run_other", "/proc/no", "", "x" * 5000),
    "out": ("run_file",),
}
SELDOM = ("replay", "deterministic", "init_from", "xla", "test_split", "compare", "class_list")
LEFT_OUT = ("list", "download")  # ends at once; would ask the network
PROGRAMS = {
    "pretraining": (pretrain.main, PretrainConfig, TINY, ("--run_dir=OUT",)),
    "evaluation": (evaluate.main, EvaluateConfig, FEW, ("--out=OUT",)),
    "masks": (masks.main, masks.Settings, ["--run=run", "--images=classes"], ("--out=OUT",)),
    "export": (export.main, export.Settings, ["--run=run"], ("--out=OUT",)),
}
MEMORY, SECONDS = 4 * 2**30, 1800  # of one combination; more is a failure
GROWN = 3 * 2**20  # KiB of a process that has run many


def make_data(root):
    """Writes the data sets and files that flags name, and a run to evaluate."""
    rng = np.random.default_rng(0)
    names = [f"{part}/{label}" for part in ("train", "test") for label in ("cat", "dog")]
    places = {"classes": ["cat", "dog"], "divided": names, "flat": [""], "one_image": [""]}
    for home, folders in places.items():
        for folder in folders:
            (root / home / folder).mkdir(parents=True)
            for n in range(1 if home == "one_image" else 12):
                pixels = rng.integers(0, 256, (16 + n % 3, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / home / folder / f"{n:02d}.png")
    (root / "names.txt").write_text("bee\nant\n")
    (root / "run_file").write_text("a file")
    (root / "run_other").mkdir()
    (root / "run_other" / "thesis.tex").write_text("years of work")


def make_run(root):
    """In a child: the data set `mini`, which has masks, a run with a masker, and its export."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(1)
    features = {
        "image": tfds.features.Image(shape=(16, 16, 3)),
        "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
        "mask": tfds.features.Image(shape=(16, 16, 1)),
    }

    def split(count):
        return tf.data.Dataset.from_tensor_slices(
            {
                "image": rng.integers(0, 256, (count, 16, 16, 3), np.uint8),
                "label": np.arange(count, dtype=np.int64) % 3,
                "mask": rng.integers(0, 3, (count, 16, 16, 1), np.uint8),
            }
        )

    tfds.dataset_builders.store_as_tfds_dataset(
        name="mini",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": split(24), "test": split(9)},
        data_dir=root / "prepared",
        disable_shuffling=True,
    )
    pretrain.main(cli.parse(PretrainConfig, [*TINY, "--run_dir=run"]))
    export.main(cli.parse(export.Settings, ["--run=run", "--out=export"]))


# ---------------------------------------------------------------------- drawing


def sensible(field, kind, rng):
    """A value within the declared bounds, as text."""
    rule, name, default = field.metadata, field.name, field.default
    if name in MEANINGFUL:
        return str(rng.choice(MEANINGFUL[name]))
    if rule["choices"]:
        return rng.choice(rule["choices"])
    if kind is bool:
        return rng.choice(("true", "false"))
    least = rule["least"] if rule["least"] is not None else rule["above"]
    if kind is int:
        return str(max(int(least or 0), 0) + rng.randrange(4))
    if kind is float:
        low = least if least is not None else -1.0
        high = rule["most"] if rule["most"] is not None else low + 2
        return str(round(low + (high - low) * rng.uniform(0.01, 1), 3))
    if kind is tuple and default and rule["least"] is None and rng.random() < 0.5:
        return str(rng.choice(default))
    return ",".join(map(str, default)) if kind is tuple else str(default or "")


@functools.cache
def absurd_pairs(settings):
    """Every flag with every absurd value of its type, in a random order that is always the same."""
    rng, pairs = random.Random(0), list(UNKNOWN)
    for field in dataclasses.fields(settings):
        kind, _ = cli._kinds(settings)[field.name]
        if field.name not in LEFT_OUT:
            values = [*ABSURD[kind], *rng.sample(TYPOS[kind], min(1, len(TYPOS[kind])))]
            values = PLACES.get(field.name) or values
            pairs += [f"--{field.name}={value}" for value in values]
    rng.shuffle(pairs)
    return pairs


def draw(program, number):
    """The flags of one combination: sensible ones, and in two of three one absurd one."""
    rng = random.Random(f"{program} {number}")
    _, settings, base, place = PROGRAMS[program]
    absurd, share, named = [], rng.choice((0.05, 0.15, 0.3)), 0.8
    if number % 3:  # with few others, which would be refused for their own sake
        pairs = absurd_pairs(settings)
        absurd, share, named = [pairs[(number - number // 3 - 1) % len(pairs)]], 0.03, 0.3
    kinds, given = cli._kinds(settings), []
    for field in dataclasses.fields(settings):
        name = field.name
        chance = named if name in ("objective", "masking", "fill", "protocols") else share
        chance *= 0.1 if name in SELDOM else 1
        if name not in (*LEFT_OUT, "run_dir", "out") and rng.random() < chance:
            given.append(f"--{name}={sensible(field, kinds[name][0], rng)}")
    return [*base, *place, *given, *absurd]


# ---------------------------------------------------------------------- in a child


def trained(out, argv):
    """What is wrong with what a pretraining left, "" if nothing."""
    records = read_jsonl(out / "metrics.jsonl")
    if not records or records[-1]["step"] < 1:
        return "no update was made"
    bad = [key for r in records for key, value in r.items() if not math.isfinite(value)]
    if bad:
        return f"{bad[0]} is not finite"
    left = [p for p in ("checkpoints", "model/info.json", "summary.json") if not (out / p).exists()]
    return f"{left[0]} was not written" if left else ""


def attempt(program, argv, home):
    """Runs one combination in this process; returns (outcome, line, what is wrong)."""
    main, settings, _, _ = PROGRAMS[program]
    out = home / "out"
    shutil.rmtree(out, ignore_errors=True)
    (home / "stdout").write_bytes(b"")
    (home / "stderr").write_bytes(b"")
    kept = [os.dup(1), os.dup(2)]
    for number, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(home / name, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [f"{program}.py", *(arg.replace("OUT", str(out)) for arg in argv)]
    code, raised, bars = 0, "", tqdm.__init__
    try:
        cli.start(main, settings, "")
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        raised = f"{type(error).__name__} in {where}: {error}"
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        tqdm.__init__ = bars
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
    said = (home / "stderr").read_text(errors="replace")
    lines = said.strip().splitlines()
    line = lines[-1].removeprefix(f"{program}.py: ") if lines else ""
    if raised:
        return "failed", "", " ".join(raised.split())[:500]
    if code == 2:
        wrong = "" if len(lines) == 1 and len(line) > 15 else f"not one line: {said[:500]!r}"
        return ("stopped" if "diverged" in line or "collapsed" in line else "refused"), line, wrong
    if code:
        return "failed", line, f"exit code {code}"
    wrong = trained(out, argv) if program == "pretraining" else ""
    return "done", line, wrong or (f"printed: {line[:200]}" if lines else "")


def same_views(config, info, train):
    """Stands for `_fixed_batches`, which traces the augmentation a second time."""
    pictures = evaluation_dataset(train, min(8, train.count), info.image_size)
    batch = {name: value.numpy() for name, value in next(iter(pictures)).items()}
    views = tf.convert_to_tensor(normalize(batch["image"], info.mean, info.std))
    return {"view1": views, "view2": views}, batch


def plain_views(examples, batch_size, first, second, mean, std, *_, **__):
    """Stands for `pretrain_dataset` where no flag of the data or the augmentation was drawn."""
    pictures = evaluation_dataset(examples, batch_size, first.image_size, mean, std)

    def views(batch):
        image, truth = batch.pop("image"), batch.pop("mask", None)
        masks = {} if truth is None else {"mask1": truth, "mask2": truth}
        return batch | masks | {"view1": image, "view2": image[:, :, ::-1]}

    return pictures.unbatch().batch(batch_size, drop_remainder=True).map(views).repeat()


def shorten(stack, given):
    """Leaves out what takes most of a tiny run's time: tracing, kNN, pictures, the report.

    Args:
      stack: puts everything back at its end.
      given: the drawn flags.
    """
    compiled = Pretrainer.compile

    def eagerly(model, *args, **kwargs):
        compiled(model, *args, **kwargs)
        model.run_eagerly = not model.jit_compile

    short = {"draw_curves": lambda *_: None, "write_report": lambda *_: None}
    short["_fixed_batches"] = same_views
    groups = {f.name: f.metadata["group"] for f in dataclasses.fields(PretrainConfig)}
    if not {groups.get(arg[2:].split("=")[0]) for arg in given} & {"data", "augmentation"}:
        short["pretrain_dataset"] = plain_views
    for name, instead in short.items():
        stack.enter_context(mock.patch.object(training, name, instead))
    for name in ("before", "after"):
        stack.enter_context(mock.patch.object(OnlineEvaluator, name, return_value={}))
    stack.enter_context(mock.patch.object(Pretrainer, "compile", eagerly))


def child(state, plan):
    """Runs combinations until this process has grown; each is recorded when it has ended."""
    home = state / "home"
    os.chdir(home)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    for program, number in plan:
        argv = draw(program, number)
        (state / "current.json").write_text(json.dumps([program, number, argv]))
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, most))
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            if number % 10:  # every tenth is left whole
                shorten(stack, argv[len(PROGRAMS[program][2]) :])
            found = attempt(program, argv, home)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        keras.backend.clear_session()
        record(state, program, number, argv, *found, time.monotonic() - begun)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > GROWN
        if grown or any("deterministic" in arg for arg in argv):
            break


def record(state, program, number, argv, outcome, line, wrong, seconds):
    facts = {"program": program, "number": number, "outcome": outcome, "line": line}
    facts |= {"wrong": wrong, "seconds": round(seconds, 2)}
    if wrong:
        facts["argv"] = argv
        for name in ("stdout", "stderr"):
            shutil.copy(state / "home" / name, state / f"{program}{number}.{name}")
    append_jsonl(state / "trials.jsonl", facts)
    (state / "current.json").unlink(missing_ok=True)
    shown = f"{outcome}, {seconds:.1f} s" + (f": {line[:150]}" if line else "")
    print(f"{program} {number}: {f'WRONG: {wrong[:200]}' if wrong else shown}", flush=True)


def forked(function, *arguments):
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def watched(state, process):
    """Waits for a child; returns what is wrong with the combination that it died of."""
    current = state / "current.json"
    while True:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            return f"the process died ({status})" if current.exists() else ""
        with contextlib.suppress(FileNotFoundError):
            if time.time() - current.stat().st_mtime > SECONDS:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return f"no end within {SECONDS} s"
        time.sleep(0.2)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--state", type=Path, required=True)
    for name, default in (("combinations", 1000), ("evaluations", 200), ("exports", 60)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--minutes", type=float, default=0, help="stop then; 0 = never")
    arguments.add_argument("--page", type=Path, default=PAGE)
    given = arguments.parse_args()
    state, page, started = given.state.resolve(), given.page.resolve(), time.monotonic()
    home, trials = state / "home", state / "trials.jsonl"
    if not (home / "export").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        make_data(home)
        os.chdir(home)
        _, status = os.waitpid(forked(make_run, home), 0)
        assert not status, "the run to evaluate failed"
    plan = [("pretraining", n) for n in range(given.combinations)]
    plan += [("evaluation", n) for n in range(given.evaluations)]
    plan += [(("masks", "export")[n % 2], n // 2) for n in range(given.exports)]
    while True:
        done = {(trial["program"], trial["number"]) for trial in read_jsonl(trials)}
        left = [combination for combination in plan if combination not in done]
        if not left or (given.minutes and time.monotonic() - started > 60 * given.minutes):
            break
        wrong = watched(state, forked(child, state, left))
        if wrong:
            program, number, argv = json.loads((state / "current.json").read_text())
            record(state, program, number, argv, "failed", "", wrong, 0)
    found = [t for t in read_jsonl(trials) if (t["program"], t["number"]) in plan]
    sys.exit(write_page(page, found))


def write_page(page, trials):
    groups = collections.defaultdict(list)
    for trial in trials:
        groups[trial["program"]].append(trial)
    rows = []
    for program, group in groups.items():
        counts = collections.Counter(t["outcome"] for t in group if not t["wrong"])
        failures = sum(bool(t["wrong"]) for t in group)
        did = {"pretraining": "trained", "evaluation": "evaluated"}.get(program, "written")
        outcome = f"{counts['done']} {did}, {counts['refused']} refused in one line, "
        if program == "pretraining":
            outcome += f"{counts['stopped']} stopped as diverged or collapsed in one line, "
        rows.append((f"flags of {program}", len(group), f"{outcome}{failures} failures"))
    write_rows(page, "flags_program.py", rows)
    return int(any(trial["wrong"] for trial in trials))


if __name__ == "__main__":
    main()
