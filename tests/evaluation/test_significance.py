"""Comparing runs: which test, and what it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from adios_tf.errors import UserError
from adios_tf.evaluation.significance import RunScores, compare, holm, mcnemar


def run(group, seed, value, correct=None, row="knn"):
    rows = {} if correct is None else {row: np.asarray(correct, bool)}
    return RunScores(f"{group}{seed}", group, seed, {row: value}, rows)


def test_mcnemar_by_hand():
    """Five examples only the first got, one only the second: 2 * (1 + 6) / 2^6."""
    first = [1] * 5 + [0] + [1, 0] * 10
    second = [0] * 5 + [1] + [1, 0] * 10
    assert mcnemar(first, second) == pytest.approx(2 * 7 / 64)
    assert mcnemar(first, first) == 1.0
    with pytest.raises(UserError, match="cannot be paired"):
        mcnemar([1, 0], [1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_symmetric_and_forgets_agreement(pairs):
    first, second = np.array(pairs).T
    p = mcnemar(first, second)
    assert 0 < p <= 1
    assert p == pytest.approx(mcnemar(second, first))
    assert p == pytest.approx(mcnemar(np.append(first, True), np.append(second, True)))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, float("nan"), 0.6])[::2] == [1.0, 1.0]
    assert math.isnan(holm([float("nan")])[0])


def test_single_runs_are_compared_on_their_images():
    rows = compare([run("a", 0, 0.5, [1, 1, 0, 0]), run("b", 0, 0.25, [0, 0, 0, 1])])
    assert [r.group for r in rows] == ["a", "b"]
    assert rows[1].difference == -0.25
    assert rows[1].p == pytest.approx(1.0)
    assert "McNemar" in rows[1].test
    assert math.isnan(rows[0].std)
    bare = compare([run("a", 0, 0.5), run("b", 0, 0.25)])
    assert math.isnan(bare[1].p)
    assert "no per-example" in bare[1].test


def test_equal_seeds_are_paired_and_others_are_not():
    first, second = [0.50, 0.60, 0.71], [0.52, 0.61, 0.74]
    runs = [run("a", s, v) for s, v in enumerate(first)]
    runs += [run("b", s, v) for s, v in reversed(list(enumerate(second)))]
    found = compare(runs)[1]
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert "paired t-test over 3 seeds" in found.test
    assert (found.runs, found.mean) == (3, pytest.approx(np.mean(second)))
    assert found.std == pytest.approx(np.std(second, ddof=1))
    runs = [run("a", s, v) for s, v in enumerate(first)]
    runs += [run("b", s + 5, v) for s, v in enumerate(second)]
    found = compare(runs)[1]
    assert found.p == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
    assert "Welch" in found.test
    lonely = compare([*runs[:3], run("b", 0, 0.9)])[1]
    assert "several seeds" in lonely.test


def test_no_spread_is_not_certainty():
    same = [run(g, s, 0.5) for g in "ab" for s in (0, 1)]
    assert compare(same)[1].p == 1.0
    shifted = [run(g, s, v) for g, v in (("a", 0.5), ("b", 0.75)) for s in (0, 1)]
    assert math.isnan(compare(shifted)[1].p)


def test_several_groups_are_corrected():
    correct = {"a": [0] * 12, "b": [1] * 8 + [0] * 4, "c": [1] * 9 + [0] * 3}
    rows = compare([run(g, 0, np.mean(c), c) for g, c in correct.items()])
    assert rows[2].p == pytest.approx(2 * 2 / 2**9)
    assert rows[1].p == pytest.approx(max(2 / 2**8, rows[2].p))


def test_only_rows_that_all_have():
    first, second = run("a", 0, 0.5), run("b", 0, 0.6, row="linear")
    with pytest.raises(UserError, match="no row in common"):
        compare([first, second])
    with pytest.raises(UserError, match="two runs"):
        compare([first])
    both = RunScores("b", "b", 0, {"linear": 0.1, "knn": 0.2}, {})
    assert [r.row for r in compare([first, both])] == ["knn", "knn"]
