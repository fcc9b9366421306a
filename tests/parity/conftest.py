"""Reading golden files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


class Golden:
    """One golden file; a name that is not in it is a failure that names it."""

    def __init__(self, path: Path):
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
def golden(golden_file: Callable[[str], Path]) -> Callable[[str], Golden]:
    """Returns a reader of golden files by name."""
    return lambda name: Golden(golden_file(f"{name}.npz"))
