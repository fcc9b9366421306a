"""Flagfiles within flagfiles: where they are found."""

import pytest

from adios_tf.cli import recipe_file
from adios_tf.errors import UserError
from adios_tf.flagfiles import expand


def test_a_nested_flagfile_is_looked_for_beside_its_file(tmp_path, monkeypatch):
    """Beside the file that names it, wherever the program runs; then in the current directory."""
    (tmp_path / "recipes" / "base").mkdir(parents=True)
    (tmp_path / "recipes" / "base" / "all.flags").write_text("--b=2\n")
    outer = tmp_path / "recipes" / "mine.flags"
    outer.write_text("# mine\n--a=1\n--flagfile=base/all.flags\n--flagfile=here.flags\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "here.flags").write_text("\n// a comment\n--c=3\n")
    assert expand(["--x=0", "--flagfile", str(outer), "--y=9"], recipe_file) == [
        *("--x=0", "--a=1", "--b=2", "--c=3", "--y=9")
    ]


def test_a_flagfile_that_contains_itself(tmp_path):
    one, two = tmp_path / "one.flags", tmp_path / "two.flags"
    one.write_text("--flagfile=two.flags\n")
    two.write_text("--flagfile=one.flags\n")
    with pytest.raises(UserError, match="contains itself"):
        expand([f"--flagfile={one}"], recipe_file)
    # Twice in a row is no circle.
    two.write_text("--a=1\n")
    assert expand([f"--flagfile={two}", f"--flagfile={two}"], recipe_file) == ["--a=1", "--a=1"]


@pytest.mark.parametrize("flag", ["--recipe", "--flagfile"])
def test_a_value_is_needed(flag):
    with pytest.raises(UserError, match=f"{flag} needs a value"):
        expand(["--a=1", flag], recipe_file)
