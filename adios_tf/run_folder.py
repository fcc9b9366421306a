"""The files of a run folder: the one place that knows their names.

flags.txt           the settings that the run was begun with, usable as a flagfile
changes.jsonl       settings changed on a resume, with the update from which on they hold
environment.json    command, versions, machine
before.json         accuracies before the first update
metrics.jsonl       one record per epoch
summary.json        the results at the end
checkpoints/        what a killed run goes on from
model/              the networks and their facts, see `adios_tf.pretrained`
pictures/           mask panels and curves
tensorboard/        the same numbers and pictures as TensorBoard events
evaluation/NAME/    what `bin/evaluate.py` measured on data set NAME
report.html         all of it on one page
"""

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adios_tf.cli import program
from adios_tf.errors import UserError
from adios_tf.reporting.tables import append_jsonl, read_jsonl, write_json, write_jsonl, write_text

INFO = "info.json"  # in a model's folder
RESULTS = "results.json"  # in an evaluation's folder


Rule = tuple[Callable[[Any], bool], str]


def _whole(low: int, high: int = 10**15) -> Rule:
    return lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}"


def _three(low: float, high: float = 1000) -> Rule:
    def hold(values: Any) -> bool:
        listed = isinstance(values, list | tuple) and len(values) == 3
        return listed and all(type(v) in (int, float) and low <= v <= high for v in values)

    return hold, f"three numbers from {low} to {high}"


_TEXT: Rule = (lambda value: isinstance(value, str), "a text")
_TEXTS: Rule = (lambda v: isinstance(v, list) and all(map(_TEXT[0], v)), "a list of texts")
_NUMBER: Rule = (lambda v: v is None or type(v) in (int, float), "a number or null")
_OBJECT: Rule = (lambda v: isinstance(v, dict), "an object")
_CHANGED: Rule = (
    lambda v: isinstance(v, dict) and all(_TEXTS[0](c) and len(c) == 2 for c in v.values()),
    "an object of [value so far, value now]",
)
# What the readers rely on: of info.json, and of a line or a row of the others.
_REQUIRED = {"image_size": _whole(1, 16384), "mean": _three(-1000), "std": _three(1e-6)}
_FACTS = {
    **_REQUIRED,
    **dict.fromkeys("step num_masks high_pass hidden_dim output_dim".split(), _whole(0)),
    **dict.fromkeys("dataset backbone stem padding objective masking fill".split(), _TEXT),
    **dict.fromkeys("recipe source commit".split(), _TEXT),
    **dict.fromkeys(("class_names", "untrained_parts"), _TEXTS),
}
_CHANGE = {"step": _whole(0), "flags": _CHANGED}
_ROW = {
    **dict.fromkeys("protocol dataset variant metric command recipe label".split(), _TEXT),
    **dict.fromkeys(("value", "std", "seconds"), _NUMBER),
    "values": (lambda v: isinstance(v, list), "a list"),
    "settings": _OBJECT,
}


def _checked(
    value: Any, rules: Mapping[str, Rule], required: Iterable[str], where: str, mend: str
) -> dict[str, Any]:
    """Returns an object whose facts are what they must be; keys without a rule are free."""
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object: {mend}")
    if missing := [key for key in required if key not in value]:
        raise UserError(f"{where} does not tell {missing[0]}, {rules[missing[0]][1]}: {mend}")
    for key, (holds, allowed) in rules.items():
        if key in value and not holds(value[key]):
            shown = textwrap.shorten(repr(value[key]), 60, placeholder="...")
            raise UserError(f"{where}: {key} is {shown}, but must be {allowed}: {mend}")
    return value


def checked_info(info: Any, file: Path) -> dict[str, Any]:
    """Returns the facts of a model; keys that nothing here reads may hold anything.

    Raises:
      UserError: a fact is missing or impossible; it names the file, the key and what is allowed.
    """
    mend = "mend it, or export or train the model anew"
    return _checked(info, _FACTS, _REQUIRED, str(file), mend)


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds, {} where there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}): delete it to leave it out") from error
    return _checked(value, {}, (), str(file), "delete it to leave it out")


def read_results(folder: Path) -> dict[str, Any]:
    """Returns what an evaluation wrote into its folder; its `rows` are records of `Row`.

    Raises:
      UserError: nothing there, or damaged.
    """
    file = folder / RESULTS
    found = read_json(file)
    if not isinstance(found.get("rows"), list):
        raise UserError(f"{file} holds no results: run {program('evaluate')} on it first")
    for number, row in enumerate(found["rows"], start=1):
        where, rules = f"{file}, row {number}", _ROW | {"examples": _whole(0)}
        _checked(row, rules, _ROW, where, "delete the file and evaluate anew")
        row["value"] = math.nan if row["value"] is None else row["value"]
    return found


class RunFolder:
    """The paths of one run, and what is read from and written to them.

    Reading gives nothing where a file is not there, and `UserError` where it is damaged. Writing
    is atomic.

    Args:
      path: `--run_dir`; need not exist.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path).expanduser()
        self.flags = self.path / "flags.txt"
        self.changes = self.path / "changes.jsonl"
        self.environment = self.path / "environment.json"
        self.before = self.path / "before.json"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.pictures = self.path / "pictures"
        self.curves = self.pictures / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self.evaluations = self.path / "evaluation"
        self.report = self.path / "report.html"

    @property
    def model(self) -> Path:
        """The folder of the networks; the folder itself where it is one, as of an import."""
        return self.path if (self.path / INFO).exists() else self.path / "model"

    @property
    def has_model(self) -> bool:
        return (self.model / INFO).exists()

    def evaluation(self, name: str) -> Path:
        """The folder of one evaluation."""
        return self.evaluations / name

    def evaluated(self) -> list[Path]:
        """The folders of the evaluations that hold results."""
        return sorted(file.parent for file in self.evaluations.glob(f"*/{RESULTS}"))

    def panel(self, epoch: int) -> Path:
        """The picture of the masks after an epoch."""
        return self.pictures / f"masks_{epoch:04d}.png"

    def flag_lines(self) -> list[str]:
        """Returns the lines of flags.txt."""
        if not self.flags.exists():
            return []
        try:
            return self.flags.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.flags} ({error}): it is damaged") from error

    def settings(self) -> dict[str, str]:
        """Returns {flag: value} of flags.txt, as changed since."""
        pairs = (re.fullmatch(r"--?(\w+)(?:=(.*))?", line.strip()) for line in self.flag_lines())
        settings = {p[1]: "true" if p[2] is None else p[2] for p in pairs if p}
        for number, change in enumerate(read_jsonl(self.changes), start=1):
            where = f"{self.changes}, record {number}"
            change = _checked(change, _CHANGE, _CHANGE, where, "mend or delete it")
            settings |= {flag: now for flag, (_, now) in change["flags"].items()}
        return settings

    def add_change(self, step: int, flags: Mapping[str, Sequence[str]]) -> None:
        """Writes down {flag: [value so far, value now]} from that update on."""
        append_jsonl(self.changes, {"step": step, "flags": flags})

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of metrics.jsonl, one per epoch."""
        records = read_jsonl(self.metrics)
        for number, record in enumerate(records, start=1):
            rules = dict.fromkeys(record, _NUMBER) if isinstance(record, dict) else {}
            rules |= {"epoch": _whole(0), "step": _whole(0)}
            where = f"{self.metrics}, record {number}"
            _checked(record, rules, ["epoch"], where, "mend or delete it")
        return records

    def add_record(self, record: Mapping[str, Any]) -> None:
        append_jsonl(self.metrics, record)

    def replace_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        write_jsonl(self.metrics, records)

    def read(self, file: Path) -> dict[str, Any]:
        """Returns what one of the JSON files holds."""
        return read_json(file)

    def begin(self, flags: Sequence[str] | None, environment: Mapping[str, Any]) -> None:
        """Makes the folder and writes what is known at the start; flags only where given."""
        if flags is not None:
            write_text(self.flags, "\n".join(flags) + "\n")
            self.changes.unlink(missing_ok=True)
        write_json(self.environment, environment)
        self.pictures.mkdir(exist_ok=True)

    def model_step(self) -> int | None:
        """Returns the update that model/ is of, None where it is missing or incomplete."""
        try:
            step = read_json(self.model / INFO).get("step")
        except UserError:
            return None
        return step if (self.model / "encoder.keras").exists() else None

    def tidy(self) -> None:
        """Removes the temporary files of writes that were killed."""
        for file in self.path.glob(".*.*"):
            if re.fullmatch(r"\.\w+\.(txt|json|jsonl|html)\.\w{8}", file.name):
                file.unlink()
