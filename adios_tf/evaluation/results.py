"""Rows of the results table: what was measured, how, and the command that repeats it."""

import csv
import dataclasses
import io
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adios_tf.errors import UserError
from adios_tf.evaluation.significance import RunScores
from adios_tf.reporting.tables import format_table, write_json, write_text
from adios_tf.run_folder import RESULTS, read_results

TABLE, CSV, CORRECT = "table.txt", "results.csv", "correct.npz"


@dataclasses.dataclass(frozen=True)
class Row:
    """One number with its provenance.

    Attributes:
      protocol, dataset, metric: what was measured.
      variant: what tells it from the protocol's other rows, such as "k=20 cosine".
      values: one per seed, as fractions; a single one where nothing is random.
      settings: everything that the number depends on.
      command: repeats this row.
      seconds: wall time of the protocol's work for this row and those made along with it,
        without the encoding of the data set.
      correct: [n] bool, which test examples were right (first seed), for paired tests.
    """

    protocol: str
    dataset: str
    metric: str
    variant: str
    values: tuple[float, ...]
    settings: Mapping[str, Any]
    command: str
    seconds: float = 0.0
    correct: np.ndarray | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def std(self) -> float | None:
        """Standard deviation (n-1) over seeds; None for a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def recipe(self) -> str:
        """What was done, whatever it was done to: equal for comparable rows of two runs."""
        where = ("--run=", "--data_dir=")
        words = [w for w in shlex.split(self.command) if w.startswith("--")]
        words = [w for w in words if not w.startswith(where)]
        return " ".join(filter(None, (*words, self.variant, self.metric)))

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.dataset, self.protocol, self.variant, self.metric)))

    def record(self) -> dict[str, Any]:
        """Returns the row as JSON has it."""
        names = ("protocol", "dataset", "variant", "metric", "values", "command", "recipe")
        numbers = {"value": self.mean, "std": self.std, "seconds": round(self.seconds, 2)}
        return {
            **{name: getattr(self, name) for name in names},
            **numbers,
            "settings": dict(self.settings),
            "label": self.label,
        }


def _cells(record: Mapping[str, Any]) -> dict[str, Any]:
    spread = "" if record["std"] is None else f" ± {100 * record['std']:.2f}"
    return {
        "data set": record["dataset"],
        "protocol": record["protocol"],
        "variant": record["variant"],
        "metric": record["metric"],
        "x100": f"{100 * record['value']:.2f}{spread}",
        "seeds": len(record["values"]) if record["std"] is not None else None,
        "seconds": record["seconds"],
        "how": ", ".join(f"{k} {v}" for k, v in record["settings"].items() if v not in ("", None)),
        "again with": record["command"],
    }


def text_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table for the terminal; every line ends in the command that repeats it."""
    return format_table([_cells(record) for record in records], digits=1)


def write_results(
    folder: Path, rows: Sequence[Row], header: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Writes results.json, results.csv, table.txt and correct.npz.

    Rows that are already in the folder stay, unless the same command made them.

    Returns:
      The records of all rows that the folder now holds.
    """
    fresh = {row.recipe: row.record() for row in rows}
    kept, correct = [], {}
    if (folder / RESULTS).exists():
        kept = [r for r in read_results(folder)["rows"] if r["recipe"] not in fresh]
        correct = dict(_load_correct(folder))
    records = [*kept, *fresh.values()]
    correct |= {row.recipe: np.packbits(row.correct) for row in rows if row.correct is not None}
    counts = {row.recipe: len(row.correct) for row in rows if row.correct is not None}
    for record in records:
        if record["recipe"] in counts:
            record["examples"] = counts[record["recipe"]]
    known = {record["recipe"] for record in records}
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, **{name: bits for name, bits in correct.items() if name in known})
    (folder / CORRECT).write_bytes(packed.getvalue())
    write_json(folder / RESULTS, {**header, "rows": records})
    write_text(folder / TABLE, text_table(records) + "\n")
    file = io.StringIO()
    table = [{**_flat(record), "command": record["command"]} for record in records]
    writer = csv.DictWriter(file, list(dict.fromkeys(k for line in table for k in line)))
    writer.writeheader()
    writer.writerows(table)
    write_text(folder / CSV, file.getvalue())
    return records


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("dataset", "protocol", "variant", "metric", "value", "std", "seconds")
    settings = {f"setting_{name}": value for name, value in record["settings"].items()}
    return {**{name: record[name] for name in names}, "seeds": len(record["values"]), **settings}


def _load_correct(folder: Path) -> dict[str, np.ndarray]:
    file = folder / CORRECT
    if not file.exists():
        return {}
    try:
        with np.load(file) as packed:
            return {name: packed[name].astype(np.uint8) for name in packed.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged ({error}): delete it and evaluate anew") from error


def run_scores(folders: Sequence[Path], name: str, group: str, seed: int) -> RunScores:
    """Returns a run's results in the given folders, for `compare`."""
    values, correct, labels = {}, {}, {}
    for folder in folders:
        bits = _load_correct(folder)
        for record in read_results(folder)["rows"]:
            recipe = record["recipe"]
            values[recipe], labels[recipe] = record["value"], record["label"]
            if recipe in bits and "examples" in record:
                correct[recipe] = np.unpackbits(bits[recipe], count=record["examples"]).astype(bool)
    return RunScores(name, group, seed, values, correct, labels)
