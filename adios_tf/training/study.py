"""Every method of a list at one fixed budget, over several seeds, in one table."""

import concurrent.futures
import dataclasses
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from adios_tf import cli
from adios_tf.data import describe
from adios_tf.errors import UserError
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.plots import plot_study
from adios_tf.evaluation.results import read_results
from adios_tf.evaluation.runner import evaluate
from adios_tf.evaluation.significance import RunScores, significance, spread
from adios_tf.registry import import_plugins
from adios_tf.reporting.tables import format_table, plus_minus, write_json, write_text
from adios_tf.run_folder import RESULTS, RunFolder
from adios_tf.training.config import PretrainConfig, StudyConfig
from adios_tf.training.defaults import FACTS
from adios_tf.training.methods import check_combination
from adios_tf.training.run import prepare, pretrain, training_batches
from adios_tf.training.sweep import swept, write_hparams
from adios_tf.training.system import time_in_turn

PROTOCOLS = ("knn", "linear")
SUMMARY = ("mask_ari", "mask_ari_random", "knn_untrained", "knn_pixels")
_LEVEL = 0.05
PROGRAM = "adios_tf.programs.study"


@dataclasses.dataclass(frozen=True)
class Run:
    """One method with one seed on one data set."""

    base: str
    method: str
    config: PretrainConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.run_dir)

    @property
    def results(self) -> Path:
        return RunFolder(self.folder).evaluation("study")

    @property
    def done(self) -> bool:
        """Whether every protocol is through; results are written after each of them."""
        if not (self.results / RESULTS).exists():
            return False
        return {row["protocol"] for row in read_results(self.results)["rows"]} >= set(PROTOCOLS)


def study(config: StudyConfig) -> list[dict[str, Any]]:
    """Trains and evaluates whatever is not there yet, then compares.

    Each run is a process of its own and a run folder `OUT/BASE/METHOD/SEED`; a study that was
    stopped goes on where it was. Writes study.json, study.txt and a picture per data set. Returns
    one row per data set and method, as in study.json; `UserError` for a mistake in the settings,
    before anything runs.
    """
    runs = plan(config)
    if config.only_run:
        _make(next(run for run in runs if run.config.run_dir == config.only_run), config)
        return []
    failures = _train(runs, config)
    finished: dict[str, list[Run]] = {}
    for run in runs:
        if run.done:
            finished.setdefault(run.base, []).append(run)
    tables = {
        base: compare_methods(ours, seconds_per_step(ours, config.rounds))
        for base, ours in finished.items()
    }
    out, rows = Path(config.out), [row for table in tables.values() for row in table]
    write_json(out / "study.json", {"settings": dataclasses.asdict(config), "rows": rows})
    text = "\n\n".join(f"{base}\n{study_table(table)}" for base, table in tables.items())
    write_text(out / "study.txt", text + "\n")
    print(text)
    for base, table in tables.items():
        plot_study(table, out / f"{base}.png")
    if config.sweep:
        scores = {(run.method, run.config.seed): run_values(run) for run in runs if run.done}
        write_hparams(scores, out / "tensorboard")
    for run, reason in failures.items():
        print(f"not in the table: {run}: {reason}", file=sys.stderr)
    print(f"written to {out} (study.json, study.txt, a picture per data set)")
    return rows


def named_file(name: str | Path) -> Path:
    """Returns the file of that path, or else the recipe of that name."""
    path = Path(name)
    return path if path.exists() or path.is_absolute() else cli.recipe_file(str(name))


def read_methods(path: str | Path) -> dict[str, list[str]]:
    """Returns {name: flags} of a file with lines `name: flags`; `#` begins a comment line.

    `UserError` for no such file, a line without a colon, a name that stands twice, no line at all.
    """
    try:
        lines = named_file(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--methods: cannot read {path}: {error}") from error
    methods: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, flags = (part.strip() for part in line.partition(":"))
        if not (name and colon):
            raise UserError(f"{path}, line {number}: write `name: --flag=value ...`")
        if name in methods:
            raise UserError(f"{path}, line {number}: there is a {name!r} already")
        methods[name] = shlex.split(flags)
    if not methods:
        raise UserError(f"--methods: {path} names no method")
    return methods


def plan(config: StudyConfig) -> list[Run]:
    """Returns the runs of a study, seed by seed, so that a table can be made of a part.

    `UserError` for unreadable files, flags that nothing understands, a combination that makes no
    sense, two bases of one name, or a run folder made with other settings.
    """
    if not config.base or not config.seeds:
        raise UserError("name at least one flagfile in --base and one seed in --seeds")
    names = [Path(base).stem for base in config.base]
    if len(set(names)) < len(names):
        raise UserError("--base: two flagfiles have one name; rename one")
    methods = read_methods(config.methods)
    if config.sweep:
        alone = config.methods == StudyConfig.methods
        methods = swept({"": []} if alone else methods, config.sweep)
    runs = []
    for seed in config.seeds:
        for name, base in zip(names, config.base, strict=True):
            for method, flags in methods.items():
                folder = Path(config.out, name, method.replace("/", "-"), str(seed))
                own = f"--seed={seed}", f"--run_dir={folder}"
                plugins = [f"--plugins={','.join(config.plugins)}"] if config.plugins else []
                try:
                    file = f"--flagfile={named_file(base)}"
                    argv = [file, *plugins, *flags, *own]
                    settings = cli.parse(PretrainConfig, argv)
                    import_plugins(settings.plugins)
                    check_combination(settings)
                    info = describe(settings.dataset, settings.image_size)
                except UserError as error:
                    raise UserError(f"{method} with {base}: {error}") from error
                if config.data_dir and not info.embedded:
                    settings = cli.parse(PretrainConfig, [*argv, f"--data_dir={config.data_dir}"])
                runs.append(Run(name, method, settings))
                _same_settings(runs[-1])
    return runs


def _same_settings(run: Run) -> None:
    """Raises `UserError` where the run folder was made with other settings."""
    file = RunFolder(run.folder).flags
    if not file.exists():
        return
    found = cli.parse(PretrainConfig, [f"--flagfile={file}"])
    chosen = FACTS - (run.config.given or {}).keys() | {"image_size"}
    if run.config.max_minutes or run.config.warmup_epochs >= run.config.epochs:
        chosen |= {"epochs", "warmup_epochs"}
    wanted = dataclasses.replace(run.config, **{name: getattr(found, name) for name in chosen})
    if found != wanted:
        raise UserError(
            f"{run.folder} was made with other settings: take another --out, or remove that folder"
        )


def _make(run: Run, config: StudyConfig) -> None:
    """Pretrains and evaluates one run, in this process."""
    pretrain(run.config)
    how = EvaluateConfig(protocols=PROTOCOLS, knn_k=(20,), train_images=config.train_images)
    evaluate(dataclasses.replace(how, run=str(run.folder), out=str(run.results)))


def _train(runs: Sequence[Run], config: StudyConfig) -> dict[str, str]:
    """Makes the runs that are not done; returns {folder: last line} of those that failed."""
    left = [run for run in runs if not run.done]
    failures = {}
    cores = max(1, (os.cpu_count() or 1) // config.jobs)
    threads = {f"TF_NUM_{kind}OP_THREADS": str(cores) for kind in ("INTRA", "INTER")}
    flags = cli.flag_lines(dataclasses.replace(config, rounds=0))

    def start(run: Run) -> str:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", PROGRAM, *flags, f"--only_run={run.folder}"]
        environment = os.environ | (threads if config.jobs > 1 else {})
        log = run.folder.parent / f"{run.config.seed}.log"
        with log.open("w") as file:
            output = {"stdout": file, "stderr": subprocess.STDOUT}
            done = subprocess.run(command, **output, env=environment, check=False)
        return "" if done.returncode == 0 else f"{_reason(log)} ({log})"

    with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
        pending = {pool.submit(start, run): run for run in left}
        finished = concurrent.futures.as_completed(pending)
        try:
            for one in tqdm(finished, total=len(left), desc="study", unit="run"):
                if one.result():
                    failures[str(pending[one].folder)] = one.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _reason(log: Path) -> str:
    """Returns what a run that failed said last: its one clear line, or the end of a traceback."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    told = [line.partition(": ")[2] for line in lines if line.startswith("study.py: ")]
    return next(iter([*told, *reversed([line for line in lines if line])]), "killed")


def seconds_per_step(runs: Sequence[Run], rounds: int) -> dict[str, float]:
    """Returns {method: median seconds of a training step}, the methods timed in turn."""
    if not rounds:
        return {}
    first = {run.method: run.config for run in reversed(runs)}
    steps = {}
    for method, config in tqdm(first.items(), desc="building", unit="method"):
        short = dataclasses.replace(config, train_images=config.batch_size)
        *data, model = prepare(short, given=config.given)
        batch = next(iter(training_batches(*data)))
        steps[method] = partial(tf.function(model.train_step, autograph=False), batch)
    timed = time_in_turn(steps, rounds)
    return {method: float(np.median(seconds.wall)) for method, seconds in timed.items()}


def run_values(run: Run) -> dict[str, float]:
    """Returns the scores of a finished run, as fractions, and its baselines."""
    folder = RunFolder(run.folder)
    summary = folder.read(folder.summary)
    values = {
        row["protocol"]: row["value"]
        for row in read_results(run.results)["rows"]
        if row["metric"] == "top1"
    }
    return values | {name: summary[name] for name in SUMMARY if summary.get(name) is not None}


def compare_methods(runs: Sequence[Run], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Returns one row per method of one data set.

    Scores are {"mean", "std" (n-1, None for one run), "values"}; "gain" is the linear accuracy
    over the plain method of the same objective (the first row without masking), "p" of the test
    that `adios_tf.evaluation.significance.significance` names. p is not corrected for the number of
    methods: of twenty that change nothing, one is below 0.05 on average.
    """
    first: dict[str, Run] = {}
    scores: dict[str, list[RunScores]] = {}
    plain: dict[str, str] = {}
    for run in runs:
        first.setdefault(run.method, run)
        one = RunScores(str(run.folder), run.method, run.config.seed, run_values(run), {})
        scores.setdefault(run.method, []).append(one)
        if run.config.masking == "none":
            plain.setdefault(run.config.objective, run.method)
    rows = []
    for method, members in scores.items():
        row: dict[str, Any] = {"base": first[method].base, "method": method, "seeds": len(members)}
        for name in (*PROTOCOLS, *SUMMARY):
            values = [run.values[name] for run in members if name in run.values]
            row[name] = _spread(values) if values else None
        baseline = plain.get(first[method].config.objective)
        row["plain"] = baseline if baseline != method else None
        row["gain"] = row["p"] = None
        if row["plain"]:
            usual = np.mean([run.values["linear"] for run in scores[baseline]])
            row["gain"] = row["linear"]["mean"] - usual
            row["p"], row["test"] = significance("linear", scores[baseline], members)
            row["verdict"] = "no clear difference"
            if row["p"] < _LEVEL:  # which NaN is not
                row["verdict"] = "helps" if row["gain"] > 0 else "hurts"
        else:
            row["verdict"] = "the plain method" if baseline else "no plain method in the list"
        row["seconds_per_step"] = seconds.get(method)
        rows.append(row)
    return rows


def _spread(values: Sequence[float]) -> dict[str, Any]:
    mean, std = spread(values)
    return {"mean": mean, "std": std, "values": list(values)}


def study_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows of one data set as text, and what they are measured against."""

    def cell(score: Mapping[str, Any] | None, factor: float, digits: int) -> str:
        return "-" if score is None else plus_minus(score["mean"], score["std"], digits, factor)

    lines = [
        {
            "method": row["method"],
            "kNN %": cell(row["knn"], 100, 1),
            "linear %": cell(row["linear"], 100, 1),
            "mask ARI": cell(row["mask_ari"], 1, 3),
            "s/step": row["seconds_per_step"],
            "over plain": "" if row["gain"] is None else f"{100 * row['gain']:+.1f}",
            "p": "" if row["p"] is None or math.isnan(row["p"]) else f"{row['p']:.2g}",
            "verdict": row["verdict"],
        }
        for row in rows
    ]
    text = [format_table(lines)]
    for name, what, factor, digits in (
        ("knn_pixels", "kNN of raw pixels, %", 100, 1),
        ("knn_untrained", "kNN of an untrained encoder, %", 100, 1),
        ("mask_ari_random", "mask ARI of random blobs", 1, 3),
    ):
        known = [value for row in rows if row[name] for value in row[name]["values"]]
        if known:
            text.append(f"{what}: {cell(_spread(known), factor, digits)}")
    return "\n".join(text)
