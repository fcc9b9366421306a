"""A damaged file of a run folder: each program says one line, or does without the file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adios_tf import pretrained
from adios_tf.errors import UserError
from adios_tf.evaluation.compare_runs import compare_runs
from adios_tf.evaluation.config import EvaluateConfig
from adios_tf.evaluation.results import Row, write_results
from adios_tf.evaluation.runner import resolved
from adios_tf.exporting.card import write_card
from adios_tf.reporting.report import write_report
from adios_tf.run_folder import RunFolder
from adios_tf.training.checkpoints import Checkpoints
from adios_tf.training.run import prepare, pretrain

VALUES = (None, True, 1.5, "text", [1, "a", None], {"a": [None]})


def row(name: str) -> Row:
    command = f"python bin/evaluate.py --run={name} --protocols=knn --knn_k={len(name)}"
    right = np.array([True, False, True])
    return Row("knn", "data", "top1", "", (0.5,), {"k": 20}, command, correct=right)


@pytest.fixture(scope="module")
def evaluated(whole, tmp_path_factory):
    """A run with a change and an evaluation, and its model."""
    run = RunFolder(shutil.copytree(whole, tmp_path_factory.mktemp("evaluated") / "run"))
    run.add_change(3, {"seed": ["0", "0"]})
    write_results(run.evaluation("data"), [row("run")], {"run": "run"})
    return run.path, pretrained.load(run.path)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("reporting.report.draw_curves", "evaluation.compare_runs.plot_comparison"):
        monkeypatch.setattr(f"adios_tf.{name}", lambda *_, **__: None)


def report(run, *_):
    write_report(run)


def compare(run, model, whole):
    compare_runs([str(run), str(whole)], run.parent / "compared")


def export(run, model, _):
    (run.parent / "export").mkdir(exist_ok=True)
    write_card(model, run, run.parent / "export", ["saved_model.pb"])


def evaluate(run, model, _):
    resolved(EvaluateConfig(run=str(run)), model.info)
    write_results(RunFolder(run).evaluation("data"), [row("other")], {"run": "run"})


FILES = {  # the file, who reads it beside a resumed run, further contents
    "flags.txt": (
        (report, compare, export, evaluate),
        ("--seed=x\n", "--not_a_flag=3\n--seed=0\n", "seed\n", "--seed=0 # so\n"),
    ),
    "changes.jsonl": ((report, compare, evaluate), ()),
    "before.json": ((), ()),
    "metrics.jsonl": ((report,), ()),
    "environment.json": ((report, export), ()),
    "summary.json": ((report, export), ()),
    "evaluation/data/results.json": ((compare, export, evaluate), ()),
    "evaluation/data/correct.npz": ((compare, evaluate), ()),
}
GARBAGE = (b"\xff\xfe\x00\n", b"", b"{\n", b"nonsense\n", b"[" * 100_000 + b"\n", None)


def wrong_types(value):
    """The JSON value with something else in the place of each part, and of all of it."""
    yield from VALUES
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        deeper = isinstance(part, list) or (isinstance(value, list) and isinstance(part, dict))
        for other in wrong_types(part) if deeper else VALUES:
            changed = value.copy()
            changed[key] = other
            yield changed
        if isinstance(value, dict):
            yield {k: v for k, v in value.items() if k != key}


def contents(file: Path, more):
    yield from (*GARBAGE, *(text.encode() for text in more))
    if file.suffix in (".json", ".jsonl"):
        *lines, last = file.read_bytes().splitlines(keepends=True)
        head, text = (b"", b"".join([*lines, last])) if file.suffix == ".json" else (last, last)
        yield from (head + json.dumps(v).encode() + b"\n" for v in wrong_types(json.loads(text)))


def put(file: Path, content: bytes | None):
    """Replaces the file; None = by a folder."""
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.mkdir() if content is None else file.write_bytes(content)


def one_line(function, *args) -> bool:
    """Whether the function told a mistake of the user, in one line."""
    try:
        function(*args)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize("name", FILES)
def test_every_reader_tells_one_line_or_does_without(evaluated, tmp_path, name):
    whole, model = evaluated
    readers, more = FILES[name]
    run = shutil.copytree(whole, tmp_path / "run")
    for content in contents(whole / name, more):
        for reader in readers:
            put(run / name, content)
            told = one_line(reader, run, model, whole)
            # A line of another kind, an empty file of records and a file of no records are fine.
            assert told or content not in (b"{\n", b"[1]\n") or name == "flags.txt", reader
            if name != "evaluation/data/results.json":  # what `evaluate` has written
                shutil.copytree(whole / "evaluation", run / "evaluation", dirs_exist_ok=True)


RESUMED = ("flags.txt", "changes.jsonl", "before.json", "metrics.jsonl", "environment.json")


@pytest.mark.slow
def test_a_resumed_run_tells_one_line_or_does_without(evaluated, settings, tmp_path, monkeypatch):
    whole, _ = evaluated
    first, *others = prepare(settings(whole))
    monkeypatch.setattr(
        "adios_tf.training.run.prepare",
        lambda config, *_: (replace(config, image_size=first.image_size), *others),
    )
    told = {}
    for content in (GARBAGE[0], None, b"[1]\n", b'{"epoch": 1, "step": null}\n'):
        for name in (*RESUMED, "summary.json", "checkpoints/variables.json"):
            run = tmp_path / "run"
            shutil.rmtree(run, ignore_errors=True)
            put(shutil.copytree(whole, run) / name, content)
            if one_line(pretrain, settings(run)):
                told.setdefault(content, []).append(name)
            assert len(Checkpoints.steps_in(run / "checkpoints")) == 2
    assert told == {
        GARBAGE[0]: ["flags.txt", "changes.jsonl", "before.json", "metrics.jsonl"],
        None: [*RESUMED, "summary.json"],
        b"[1]\n": ["flags.txt", "changes.jsonl", "before.json", "metrics.jsonl"],
        b'{"epoch": 1, "step": null}\n': ["flags.txt", "changes.jsonl", "metrics.jsonl"],
    }
