"""Compares runs: mean and spread over seeds, and whether a difference is statistically significant.

Which test applies depends on what varies between the runs:

- two single runs: McNemar's exact test on the same test images. It asks whether these two
  encoders differ, not whether the two methods do: another seed may say otherwise.
- several seeds on both sides, the same seeds: paired t-test over seeds; other seeds: Welch's
  t-test. These ask whether the methods differ. (A rank test cannot go below p = 0.25 with
  three seeds.)

With more than two groups the p-values against the first are corrected by Holm's method.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from adios_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class RunScores:
    """One evaluated run."""

    name: str
    group: str  # of runs that differ in the seed only
    seed: int  # of pretraining
    values: Mapping[str, float]  # by row
    correct: Mapping[str, np.ndarray]  # by row: [n] bool, which test examples were right, if any
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)  # rows' names, if others


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One group's result in one row, and its distance from the first group.

    `std` is the standard deviation (n-1) over runs, NaN for a single one. `p` is NaN and
    `test` says why where no test applies; it is None for the first group, the baseline.
    """

    row: str
    group: str
    runs: int
    mean: float
    std: float
    values: tuple[float, ...]
    difference: float
    p: float
    test: str | None


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and standard deviation (n-1) over seeds; None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the exact two-sided p-value of McNemar's test.

    Args:
      first, second: [n] bool, whether either classifier was right on the same n examples.

    Raises:
      UserError: different numbers of examples.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape:
        raise UserError(
            f"{len(first)} and {len(second)} test examples cannot be paired: "
            "evaluate both runs on the same split"
        )
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number by Holm's method; NaN stays NaN."""
    values = np.asarray(p_values, float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known])]
    factors = len(order) - np.arange(len(order))
    corrected = values.copy()
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected.tolist()


_welch = functools.partial(stats.ttest_ind, equal_var=False)


def significance(row: str, first: Sequence[RunScores], second: Sequence[RunScores]):
    """Returns (p, name of the test) for one row of two groups of runs; see the module."""
    if len(first) == len(second) == 1:
        pair = [run.correct.get(row) for run in (*first, *second)]
        if any(one is None for one in pair):
            return float("nan"), "none: a single run each and no per-example results"
        return mcnemar(*pair), "McNemar, same test images"
    if min(len(first), len(second)) < 2:
        return float("nan"), "none: several seeds are needed on both sides"
    by_seed = [{run.seed: run.values[row] for run in group} for group in (first, second)]
    if set(by_seed[0]) == set(by_seed[1]) and len(by_seed[0]) == len(first) == len(second):
        seeds = sorted(by_seed[0])
        values = [np.array([scores[seed] for seed in seeds]) for scores in by_seed]
        test, name = stats.ttest_rel, f"paired t-test over {len(seeds)} seeds"
    else:
        values = [np.array([run.values[row] for run in group]) for group in (first, second)]
        test, name = _welch, f"Welch's t-test, {len(first)} and {len(second)} seeds"
    differing = values[0] - values[1] if test is stats.ttest_rel else np.concatenate(values)
    if np.ptp(differing) == 0:
        return (1.0, name) if differing[0] == 0 or test is _welch else (float("nan"), "no spread")
    return float(test(*values).pvalue), name


def compare(runs: Sequence[RunScores]) -> list[Comparison]:
    """Compares groups of runs in every row that all runs have; the first group is the baseline.

    Returns row by row one `Comparison` per group, in the order in which groups first appear.
    `UserError` for fewer than two runs, or no row in common.
    """
    if len(runs) < 2:
        raise UserError("comparing takes two runs at least")
    groups: dict[str, list[RunScores]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    rows = [row for row in runs[0].values if all(row in run.values for run in runs)]
    if not rows:
        raise UserError(
            "the runs have no row in common: evaluate each with the same protocols and settings"
        )
    table, baseline = [], next(iter(groups.values()))
    for row in rows:
        tests = {
            name: significance(row, baseline, group)
            for name, group in groups.items()
            if group is not baseline
        }
        corrected = dict(zip(tests, holm([p for p, _ in tests.values()]), strict=True))
        base_mean = np.mean([run.values[row] for run in baseline])
        for name, group in groups.items():
            values = tuple(float(run.values[row]) for run in group)
            mean, std = spread(values)
            table.append(
                Comparison(
                    row=runs[0].labels.get(row, row),
                    group=name,
                    runs=len(values),
                    mean=mean,
                    std=float("nan") if std is None else std,
                    values=values,
                    difference=float(mean - base_mean),
                    p=corrected.get(name, float("nan")),
                    test=tests[name][1] if name in tests else None,
                )
            )
    return table
