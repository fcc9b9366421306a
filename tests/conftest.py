"""Shared options and fixtures."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        default=str(ROOT / "tests" / "golden"),
        help="directory with golden arrays of the official implementations",
    )


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The directory of golden arrays; a directory that is not there is an error, not a skip."""
    folder = Path(request.config.getoption("--golden")).resolve()
    if not folder.is_dir():
        raise pytest.UsageError(f"--golden={folder} is not a directory")
    return folder


@pytest.fixture(scope="session")
def golden_file(golden_dir: Path) -> Callable[[str], Path]:
    """Returns the path of a golden file by its name.

    Skips a file that `left_out.txt` names, fails on any other that lacks.
    """

    def path(name: str) -> Path:
        found = golden_dir / name
        left_out = golden_dir / "left_out.txt"
        if not found.exists():
            if left_out.exists() and name in left_out.read_text().split():
                pytest.skip(f"{name} is left out of this copy for its size; see --golden")
            pytest.fail(f"golden file {name} is missing")
        return found

    return path


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The data_dir of the prepared real data sets; skips where they are not on this machine."""
    folder = ROOT.parent / "shared" / "tfds"
    if not folder.is_dir():
        pytest.skip("needs the prepared real data sets in ../shared/tfds, which are not here")
    return folder
