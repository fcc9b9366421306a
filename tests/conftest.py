"""Shared options and fixtures."""

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The second of the two formats of golden directories; all other golden files are of the first.
RECIPES = (
    "recipe_step_*.npz lars.npz linear_official.npz finetune_official.npz simsiam_terms.npz "
    "simsiam_s_terms.npz vit_tiny_init.json"
).split()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        action="append",
        help="directory with golden arrays of the official implementations, of either format; "
        "repeat it or put commas between several. Default: the copies in tests/golden, and "
        "../shared/golden_recipes where it is there",
    )


class GoldenFiles:
    """The golden files of one or more directories.

    Attributes:
      folders: the directories.
      left_out: names that a directory's `left_out.txt` says it does without.
    """

    def __init__(self, config: pytest.Config):
        given = config.getoption("--golden")
        if given:
            self.folders = [Path(p).resolve() for one in given for p in one.split(",") if p]
        else:
            shared = ROOT.parent / "shared" / "golden_recipes"
            self.folders = [ROOT / "tests" / "golden", *([shared] if shared.is_dir() else [])]
        for folder in self.folders:
            if not folder.is_dir():
                raise pytest.UsageError(f"--golden={folder} is not a directory")
        self.left_out = set().union(*map(self.excused, self.folders))
        if given:
            names = [n for folder in self.folders for n in self.names(folder)]
            if twice := {n for n in names if names.count(n) > 1}:
                raise pytest.UsageError(f"{min(twice)} is in two of the --golden directories")

    @staticmethod
    def names(folder: Path) -> set[str]:
        """Returns the names of a directory's files, less what describes them."""
        neutral = {"README.md", "ARRAYS.tsv", "left_out.txt"}
        return {p.name for p in folder.iterdir() if p.name not in neutral}

    @staticmethod
    def excused(folder: Path) -> set[str]:
        """Returns the names that a directory's `left_out.txt` gives."""
        file = folder / "left_out.txt"
        return set(file.read_text().split()) if file.exists() else set()

    def named(self, pattern: str) -> list[str]:
        """Returns the names that match, of files that are there or are said to be left out."""
        names = set().union(*map(self.names, self.folders)) | self.left_out
        return sorted(n for n in names if fnmatch(n, pattern))

    def path(self, name: str) -> Path:
        """Returns a file's path. Skips what is left out or of a format that is not given."""
        for folder in self.folders:
            if (folder / name).exists():
                return folder / name
        if name in self.left_out:
            pytest.skip(f"{name} is left out of this copy for its size; see --golden")
        kind = is_recipe(name)
        if not any(is_recipe(n) == kind for n in self.named("*")):
            pytest.skip(f"no --golden directory of the format that has {name} is given")
        pytest.fail(f"golden file {name} is missing")


def is_recipe(name: str) -> bool:
    """Whether a golden file is of the second format (see `RECIPES`)."""
    return any(fnmatch(name, pattern) for pattern in RECIPES)


@pytest.fixture(scope="session")
def golden_files(request: pytest.FixtureRequest) -> GoldenFiles:
    """The golden files that this run compares with."""
    return GoldenFiles(request.config)


@pytest.fixture(scope="session")
def golden_file(golden_files: GoldenFiles) -> Callable[[str], Path]:
    """Returns the path of a golden file by its name; see `GoldenFiles.path`."""
    return golden_files.path


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The data_dir of the prepared real data sets; skips where they are not on this machine."""
    folder = ROOT.parent / "shared" / "tfds"
    if not folder.is_dir():
        pytest.skip("needs the prepared real data sets in ../shared/tfds, which are not here")
    return folder
