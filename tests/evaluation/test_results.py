"""The results table: what is kept, what is replaced, and the command beside a row."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from adios_tf import cli
from adios_tf.errors import UserError
from adios_tf.evaluation.config import EvaluateConfig, command
from adios_tf.evaluation.results import Row, read_results, run_scores, text_table, write_results


def row(metric="top1", values=(0.5,), k=20, run="runs/a", correct=None):
    config = EvaluateConfig(run=run, dataset="shapes", knn_k=(20, 200), sgd_epochs=7)
    line = command(config, ("knn",), protocols=("knn",), knn_k=(k,))
    settings = {"k": k, "note": ""}
    return Row("knn", "shapes", metric, f"k={k}", values, settings, line, 1.5, correct)


def test_the_command_spells_what_matters_and_no_more():
    line = row(k=200).command
    assert line == (
        "python bin/evaluate.py --run=runs/a --protocols=knn --dataset=shapes --knn_k=200"
    )
    parsed = cli.parse(EvaluateConfig, shlex.split(line)[2:])
    assert (parsed.run, parsed.protocols, parsed.knn_k) == ("runs/a", ("knn",), (200,))


def test_the_command_quotes():
    line = row(run="my runs/it's").command
    assert cli.parse(EvaluateConfig, shlex.split(line)[2:]).run == "my runs/it's"


def test_the_command_is_the_one_of_the_wheel_there(monkeypatch):
    """And the recipe is the same, so that rows of both can be compared."""
    ours = row()
    monkeypatch.setattr("sys.argv", ["/venv/bin/adios-evaluate"])
    assert cli.program("import_torch") == "adios-import-torch"
    theirs = row()
    assert theirs.command == ours.command.replace("python bin/evaluate.py", "adios-evaluate")
    assert theirs.recipe == ours.recipe == "--protocols=knn --dataset=shapes --knn_k=20 k=20 top1"
    monkeypatch.setattr("sys.argv", ["-c"])  # from Python, within the wheel
    monkeypatch.setattr(cli, "_recipe_folder", lambda: Path("site-packages/adios_tf/recipes"))
    assert row().command == theirs.command


def test_a_recipe_is_the_same_for_every_run():
    assert row(run="runs/a").recipe == row(run="my runs/b").recipe
    assert row(k=20).recipe != row(k=200).recipe
    assert row("top1").recipe != row("top5").recipe


def test_mean_and_spread():
    several = row(values=(0.5, 0.6, 0.7))
    assert several.mean == pytest.approx(0.6)
    assert several.std == pytest.approx(0.1)
    assert row().std is None
    table = text_table([several.record(), row().record()])
    assert "60.00 ± 10.00" in table
    assert "50.00 " in table
    assert table.count("again with") == 1
    assert table.count("python bin/evaluate.py --run=runs/a --protocols=knn") == 2
    assert "sgd_epochs" not in table, "another protocol's setting"


def test_written_rows_add_up(tmp_path):
    hits = np.array([True, False, True] * 5)
    write_results(tmp_path, [row(correct=hits), row("top5")], {"run": "runs/a"})
    write_results(tmp_path, [row(values=(0.9,), correct=~hits), row(k=200)], {"run": "runs/a"})
    found = read_results(tmp_path)
    assert found["run"] == "runs/a"
    assert {(r["variant"], r["metric"]): r["value"] for r in found["rows"]} == {
        ("k=20", "top5"): 0.5,
        ("k=20", "top1"): 0.9,
        ("k=200", "top1"): 0.5,
    }
    scores = run_scores([tmp_path], "a", "group", 3)
    recipe = row().recipe
    np.testing.assert_array_equal(scores.correct[recipe], ~hits)
    assert list(scores.correct) == [recipe]
    assert scores.values[recipe] == 0.9
    assert scores.labels[recipe] == "shapes knn k=20 top1"
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["value"] for line in lines] == ["0.5", "0.9", "0.5"]
    assert lines[1]["setting_k"] == "20"
    assert lines[1]["command"].startswith("python bin/evaluate.py")
    assert len((tmp_path / "table.txt").read_text().splitlines()) == 5


def test_correct_examples_survive_another_evaluation(tmp_path):
    hits = np.arange(11) % 3 == 0
    write_results(tmp_path, [row(correct=hits)], {})
    write_results(tmp_path, [row(k=200)], {})
    scores = run_scores([tmp_path], "a", "group", 0)
    np.testing.assert_array_equal(scores.correct[row().recipe], hits)


def test_damaged_results(tmp_path):
    with pytest.raises(UserError, match=r"run python bin/evaluate\.py"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_results(tmp_path)


def test_results_are_valid_json(tmp_path):
    write_results(tmp_path, [row(values=(float("nan"),))], {})
    json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    write_results(tmp_path, [row(metric="other")], {})  # beside the one that is no number
    assert [str(record["value"]) for record in read_results(tmp_path)["rows"]] == ["nan", "0.5"]
