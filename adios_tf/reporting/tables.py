"""Tables for the terminal, and JSON files that survive a kill at any moment."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adios_tf.errors import UserError


def format_value(value: Any, digits: int = 3) -> str:
    """Returns a number with `digits` decimals, an integer whole, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        small = value != 0 and abs(value) < 0.5 * 10**-digits
        return f"{value:.{digits}g}" if small else f"{value:.{digits}f}"
    return str(value)


def plus_minus(mean: float, std: float | None, digits: int = 2, factor: float = 100) -> str:
    """Returns mean and standard deviation times a factor, the mean alone where there is one run."""
    spread = "" if std is None or math.isnan(std) else f" ± {factor * std:.{digits}f}"
    return f"{factor * mean:.{digits}f}{spread}"


def format_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, digits: int = 3
) -> str:
    """Returns rows as an aligned plain-text table: numbers right, words left, no trailing spaces.

    Of every row it shows the columns, in order (None = all keys in order of first appearance), a
    dash for a missing or None entry, and floating-point numbers with `digits` decimals.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    placed = []
    for key in columns:
        values = [row.get(key) for row in rows]
        texts = [key, *(format_value(value, digits) for value in values)]
        width = max(map(len, texts))
        numbers = all(
            isinstance(value, int | float | np.number | None) and not isinstance(value, bool)
            for value in values
        )
        texts = [text.rjust(width) if numbers else text.ljust(width) for text in texts]
        placed.append([texts[0], "-" * width, *texts[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*placed, strict=True))


def plain(value: Any) -> Any:
    """Returns the value as JSON has it: NumPy and paths unpacked, non-finite numbers null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "__array__"):
        return plain(np.asarray(value))
    return value


def is_number(value: Any) -> bool:
    """Whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def write_csv(path: Path | str, records: Sequence[Mapping[str, Any]]) -> Path:
    """Writes records as CSV at once or not at all; columns in order of first appearance."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for one in records for key in one)))
    writer.writeheader()
    writer.writerows(records)
    return write_text(path, file.getvalue())


def write_text(path: Path | str, text: str) -> Path:
    """Writes all of the text or leaves the old file; a reader never sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's files are for their owner only
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path | str, value: Any) -> Path:
    """Writes one JSON file at once or not at all; see `plain` for what becomes of NumPy."""
    return write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path | str, records: Iterable[Mapping[str, Any]]) -> Path:
    """Replaces a file of JSON lines at once, e.g. by the records up to a checkpoint."""
    return write_text(path, "".join(_line(record) for record in records))


def append_jsonl(path: Path | str, record: Mapping[str, Any]) -> None:
    """Adds one JSON line; a last line torn by a kill is cut off first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(_line(record).encode())
        file.flush()
        os.fsync(file.fileno())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(plain(record), allow_nan=False) + "\n"


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Returns the records; a missing file has none.

    A last line without its line break was torn by a kill and is left out; where another line is
    not JSON, this is a `UserError`.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): move it away") from error
    # Not splitlines: a JSON string may hold other characters that count as line breaks.
    *lines, _ = text.split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number} is not JSON ({error}): mend or delete that line"
                ) from error
    return records
