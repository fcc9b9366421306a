"""Reading golden files, and tests' cases out of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest


class Golden:
    """One golden file; a name that is not in it is a failure that names it."""

    def __init__(self, path: Path):
        self._file = np.load(path)
        self.path = path
        self.files = self._file.files
        self.meta = json.loads(str(self._file["meta_json"]))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.files:
            pytest.fail(f"golden array {name} is missing from {self.path.name}")
        return self._file[name]

    def names(self, prefix: str) -> list[str]:
        return [n for n in self.files if n.startswith(prefix)]

    def group(self, prefix: str, keep: str = "") -> dict[str, np.ndarray]:
        """Returns {keep + rest of name: array} of all below a prefix, which must exist."""
        found = {keep + n[len(prefix) :]: self._file[n] for n in self.names(prefix)}
        if not found:
            pytest.fail(f"no golden array begins with {prefix} in {self.path.name}")
        return found

    def heads(self, prefix: str = "") -> list[str]:
        """Returns the parts of names that follow a prefix, up to the next slash."""
        return sorted({n[len(prefix) :].split("/")[0] for n in self.names(prefix)})


@pytest.fixture
def golden(golden_file: Callable[[str], Path]) -> Callable[[str], Golden]:
    """Returns a reader of golden files by name."""
    return lambda name: Golden(golden_file(f"{name}.npz"))


@pytest.fixture
def float64() -> Iterator[None]:
    """Builds and runs everything in float64."""
    yield from in_precision("float64")


@pytest.fixture(params=["float64", "float32"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """Builds and runs everything in float64 or float32."""
    yield from in_precision(request.param)


def in_precision(name: str) -> Iterator[str]:
    before = keras.config.floatx()
    keras.config.set_floatx(name)
    keras.mixed_precision.set_dtype_policy(name)
    yield name
    keras.config.set_floatx(before)
    keras.mixed_precision.set_dtype_policy(before)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "files(pattern): run for `name` of each such golden file")
    config.addinivalue_line("markers", "cases(file, find): run for each `case` that find(file) has")
    config.addinivalue_line("markers", "long: slow, unless --golden asks for all that is proved")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Files and cases are what the directories hold, whatever their names.

    Where there is none, the test runs once with the pattern, and fails or skips for its file.
    """
    from_files = metafunc.config.stash.get(_FILES, None)
    if from_files is None:
        plugin = metafunc.config.pluginmanager
        shared = next(p for p in plugin.get_plugins() if hasattr(p, "GoldenFiles"))
        from_files = metafunc.config.stash[_FILES] = shared.GoldenFiles(metafunc.config)
    for marker in metafunc.definition.iter_markers("files"):
        names = [n.removesuffix(".npz") for n in from_files.named(f"{marker.args[0]}.npz")]
        metafunc.parametrize("name", names or marker.args)
    for marker in metafunc.definition.iter_markers("cases"):
        file, find = marker.args
        folder = [f for f in from_files.folders if (f / f"{file}.npz").exists()]
        found = find(Golden(folder[0] / f"{file}.npz")) if folder else []
        metafunc.parametrize("case", list(map(str, found)) or [f"none in {file}"])


_FILES = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--golden"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.slow)
