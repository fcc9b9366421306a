"""Evaluated runs side by side: reads their results, groups seeds, tests, prints, draws."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.evaluation.plots import plot_comparison
from adios_tf.evaluation.results import run_scores
from adios_tf.evaluation.significance import Comparison, RunScores, compare
from adios_tf.reporting.tables import format_table, plus_minus, write_csv, write_json, write_text
from adios_tf.run_folder import RunFolder

# Settings of a run that do not make it another method.
_INCIDENTAL = frozenset(
    "run_dir resume seed data_dir download cache devices keep_checkpoints checkpoint_steps "
    "picture_every picture_images knn_every knn_train_images knn_test_images list plugins".split()
)


def group_names(runs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Returns {run: group}: runs whose settings differ in nothing but the seed share a group.

    A group is called by the settings in which the groups differ; a run without known settings
    stands for itself.
    """
    methods = {
        name: tuple(sorted((k, v) for k, v in flags.items() if k not in _INCIDENTAL))
        for name, flags in runs.items()
    }
    known = [dict(method) for method in methods.values() if method]
    fields = dict.fromkeys(field for method in known for field in method)
    differ = [f for f in fields if len({method.get(f) for method in known}) > 1]
    names = {}
    for run, method in methods.items():
        words = [f"{field}={dict(method)[field]}" for field in differ if field in dict(method)]
        names[run] = (" ".join(words) or "same settings") if method else Path(run).name
    return names


def load_runs(paths: Sequence[str]) -> list[RunScores]:
    """Reads all that `bin/evaluate.py` wrote for these runs; `UserError` where it wrote nothing."""
    folders = {}
    for path in dict.fromkeys(paths):
        found = RunFolder(path).evaluated()
        if not found:
            raise UserError(
                f"{path} holds no evaluation: run {program('evaluate')} --run={path} first"
            )
        folders[path] = found
    settings = {path: RunFolder(path).settings() for path in folders}
    groups = group_names(settings)
    seeds = {path: flags.get("seed", "0") for path, flags in settings.items()}
    for path, seed in seeds.items():
        if not re.fullmatch(r"-?\d+", seed):
            raise UserError(f"{RunFolder(path).flags}: --seed={seed} is no whole number: mend it")
    return [
        run_scores(found, path, groups[path], int(seeds[path])) for path, found in folders.items()
    ]


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Returns the comparison as text."""
    lines = []
    for one in comparisons:
        first = one.test is None
        lines.append(
            {
                "row": one.row,
                "group": one.group,
                "runs": one.runs,
                "x100": plus_minus(one.mean, one.std),
                "difference": "" if first else f"{100 * one.difference:+.2f}",
                "p": "" if math.isnan(one.p) else f"{one.p:.3g}",
                "test": "" if first else one.test,
            }
        )
    return format_table(lines)


def compare_runs(paths: Sequence[str], out: Path) -> str:
    """Returns the table of evaluated runs; writes compare.txt, .json, .csv and .png into `out`.

    `UserError` for fewer than two runs, a run without results, or nothing in common.
    """
    runs = load_runs(paths)
    comparisons = compare(runs)
    table = comparison_table(comparisons)
    members = {c.group: [run.name for run in runs if run.group == c.group] for c in comparisons}
    table += "\n\n" + "\n".join(f"{group}: {', '.join(names)}" for group, names in members.items())
    records = [dataclasses.asdict(c) for c in comparisons]
    write_text(out / "compare.txt", table + "\n")
    write_json(out / "compare.json", {"groups": members, "rows": records})
    write_csv(out / "compare.csv", records)
    plot_comparison(comparisons, out / "compare.png")
    return table
