"""Rows of the results table: what was measured, how, and the command that repeats it."""

import dataclasses
import io
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adios_tf.errors import UserError
from adios_tf.evaluation.significance import RunScores, spread
from adios_tf.reporting.tables import format_table, plus_minus, write_csv, write_json, write_text
from adios_tf.run_folder import RESULTS, read_results

TABLE, CSV, CORRECT = "table.txt", "results.csv", "correct.npz"


@dataclasses.dataclass(frozen=True)
class Row:
    """One number with its provenance.

    `seconds` is the wall time of the protocol's work for this row and those made along with it,
    without the encoding of the data set.
    """

    protocol: str
    dataset: str
    metric: str
    variant: str  # what tells it from the protocol's other rows, such as "k=20 cosine"
    values: tuple[float, ...]  # one per seed, as fractions; a single one where nothing is random
    settings: Mapping[str, Any]  # everything that the number depends on
    command: str  # repeats this row
    seconds: float = 0.0
    correct: np.ndarray | None = None  # [n] bool, right test examples (first seed), to pair by

    @property
    def mean(self) -> float:
        return spread(self.values)[0]

    @property
    def std(self) -> float | None:
        return spread(self.values)[1]

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
        names = "protocol dataset variant metric values command recipe".split()
        return {
            **{name: getattr(self, name) for name in names},
            **{"value": self.mean, "std": self.std, "seconds": round(self.seconds, 2)},
            "settings": dict(self.settings),
            "label": self.label,
        }


def _cells(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data set": record["dataset"],
        **{name: record[name] for name in ("protocol", "variant", "metric")},
        "x100": plus_minus(record["value"], record["std"]),
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

    Rows that are already in the folder stay, unless the same command made them. Returns the records
    of all rows that the folder now holds.
    """
    fresh = {row.recipe: row.record() for row in rows}
    kept, correct = [], {}
    if (folder / RESULTS).exists():
        kept = [r for r in read_results(folder)["rows"] if r["recipe"] not in fresh]
        correct = dict(_load_correct(folder))
    records = [*kept, *fresh.values()]
    for row in rows:
        if row.correct is not None:
            correct[row.recipe] = np.packbits(row.correct)
            fresh[row.recipe]["examples"] = len(row.correct)
    known = {record["recipe"] for record in records}
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, **{name: bits for name, bits in correct.items() if name in known})
    (folder / CORRECT).write_bytes(packed.getvalue())
    write_json(folder / RESULTS, {**header, "rows": records})
    write_text(folder / TABLE, text_table(records) + "\n")
    names, lines = "dataset protocol variant metric value std seconds".split(), []
    for record in records:
        settings = {f"setting_{name}": value for name, value in record["settings"].items()}
        numbers = {name: record[name] for name in names} | {"seeds": len(record["values"])}
        lines.append(numbers | settings | {"command": record["command"]})
    write_csv(folder / CSV, lines)
    return records


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
