"""Reading golden files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def present(path: Path) -> Path:
    """Returns the path; skips a file that `left_out.txt` names, fails on any other that lacks."""
    if not path.exists():
        left_out = path.with_name("left_out.txt")
        if left_out.exists() and path.name in left_out.read_text().split():
            pytest.skip(f"{path.name} is left out of this copy for its size; see --golden")
        pytest.fail(f"golden file {path.name} is missing")
    return path


class Golden:
    """One golden file; a name that is not in it is a failure that names it."""

    def __init__(self, path: Path):
        present(path)
        self._file = np.load(path)
        self.path = path
        self.meta = json.loads(str(self._file["meta_json"]))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._file.files:
            pytest.fail(f"golden array {name} is missing from {self.path.name}")
        return self._file[name]

    def names(self, prefix: str) -> list[str]:
        return [n for n in self._file.files if n.startswith(prefix)]

    def group(self, prefix: str, keep: str = "") -> dict[str, np.ndarray]:
        """Returns {keep + rest of name: array} of all below a prefix, which must exist."""
        found = {keep + n[len(prefix) :]: self._file[n] for n in self.names(prefix)}
        if not found:
            pytest.fail(f"no golden array begins with {prefix} in {self.path.name}")
        return found


@pytest.fixture
def golden(golden_dir: Path) -> Callable[[str], Golden]:
    """Returns a reader of golden files by name."""
    return lambda name: Golden(golden_dir / f"{name}.npz")


@pytest.fixture(scope="module")
def golden_file(golden_dir: Path) -> Callable[[str], Path]:
    """Returns the path of a golden file by its name."""
    return lambda name: present(golden_dir / name)
