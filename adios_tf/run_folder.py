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
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
# What the readers of a model's info.json rely on.
_REQUIRED = {"image_size": _whole(1, 16384), "mean": _three(-1000), "std": _three(1e-6)}
_FACTS = {
    **_REQUIRED,
    **dict.fromkeys("step num_masks high_pass hidden_dim output_dim".split(), _whole(0)),
    **dict.fromkeys("dataset backbone stem padding objective masking fill".split(), _TEXT),
    **dict.fromkeys("recipe source commit".split(), _TEXT),
    **dict.fromkeys(("class_names", "untrained_parts"), _TEXTS),
}


def checked_info(info: Any, file: Path) -> dict[str, Any]:
    """Returns the facts of a model; keys that nothing here reads may hold anything.

    Raises:
      UserError: a fact is missing or impossible; it names the file, the key and what is allowed.
    """
    mend = "mend it, or export or train the model anew"
    if not isinstance(info, dict):
        raise UserError(f"{file} must hold one JSON object: {mend}")
    for key, (holds, allowed) in _FACTS.items():
        if key not in info and key in _REQUIRED:
            raise UserError(f"{file} does not tell {key}, {allowed}: {mend}")
        if key in info and not holds(info[key]):
            shown = textwrap.shorten(repr(info[key]), 60, placeholder="...")
            raise UserError(f"{file}: {key} is {shown}, but must be {allowed}: {mend}")
    return info


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
    if not isinstance(value, dict):
        raise UserError(f"{file} must hold one JSON object: delete it to leave it out")
    return value


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
        for change in read_jsonl(self.changes):
            settings |= {flag: now for flag, (_, now) in change["flags"].items()}
        return settings

    def add_change(self, step: int, flags: Mapping[str, Sequence[str]]) -> None:
        """Writes down {flag: [value so far, value now]} from that update on."""
        append_jsonl(self.changes, {"step": step, "flags": flags})

    def records(self) -> list[dict[str, Any]]:
        """Returns the records of metrics.jsonl, one per epoch."""
        records = read_jsonl(self.metrics)
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict) or "epoch" not in record:
                raise UserError(f"{self.metrics}, record {number} has no epoch: mend or delete it")
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
