"""Flags from a dataclass: flagfiles, bounds, words, help, and how a program ends."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adios_tf import cli
from adios_tf.cli import MOST_USED, flag_lines, help_text, parse, setting
from adios_tf.errors import UserError
from adios_tf.training.config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class Settings:
    run: str = setting("", "run folder", "input")
    color: str = setting("red", "of the car", "paint", choices=("red", "green", "blue"))
    layers: int = setting(3, "of paint", "paint", least=1, most=9)
    share: float = setting(0.5, "of water", "paint", above=0, most=1)
    wash: bool = setting(True, "the car first", "paint")
    sizes: tuple[int, ...] = setting((1, 2), "of brushes", "paint", least=0)
    names: tuple[str, ...] = setting((), "of painters")
    ratio: float | None = setting(None, "or the default of the color", "paint", above=0)
    count: int | None = setting(None, "of cars", least=2)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


# ---------------------------------------------------------------------- values


def test_defaults_and_types():
    assert parse(Settings, []) == Settings()
    got = parse(
        Settings,
        "--run=a/b --color=blue --layers 4 --share=1e-3 --nowash --sizes=3,4,5 "
        "--names=x,y --ratio=2 --count=5".split(),
    )
    wanted = Settings("a/b", "blue", 4, 1e-3, False, (3, 4, 5), ("x", "y"), 2.0, 5)
    assert got == wanted
    kinds = {name: type(value) for name, value in vars(wanted).items()}
    assert {name: type(value) for name, value in vars(got).items()} == kinds


def test_lists_may_be_empty_and_take_spaces_between():
    got = parse(Settings, ["--sizes=", "--names= a , b"])
    assert (got.sizes, got.names) == ((), ("a", "b"))


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--layers=0", "--layers=0: must be at least 1"),
        ("--layers=10", "--layers=10: must be at most 9"),
        ("--share=0", "--share=0.0: must be above 0"),
        ("--share=1.01", "must be at most 1"),
        ("--share=nan", "--share=nan: must be above 0"),
        ("--ratio=-1", "--ratio=-1.0: must be above 0"),
        ("--count=1", "--count=1: must be at least 2"),
        ("--sizes=1,-2", "must be at least 0"),
        ("--color=gren", "did you mean 'green'"),
        ("--color=xyz", "unknown value of --color 'xyz': known are blue, green, red"),
        ("--layers=many", "layers"),
        ("--sizes=1,b", "--sizes"),
        ("--share=", "share"),
        ("--wash=perhaps", "wash"),
        ("--layer=4", "Did you mean: layers"),
        ("layers=4", "unexpected argument 'layers=4': settings are written --name=value"),
        ("--run=a # the run", "no comment behind a value"),
        ("--flagfile=nothing.flags", "nothing.flags"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_flag(argument, told):
    with pytest.raises(UserError) as caught:
        parse(Settings, [argument])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bounds_themselves_are_allowed():
    got = parse(Settings, ["--layers=9", "--share=1", "--count=2", "--sizes=0"])
    assert (got.layers, got.share, got.count, got.sizes) == (9, 1.0, 2, (0,))


def test_an_unset_optional_number_is_none():
    assert parse(Settings, []).ratio is None
    assert not any("ratio" in line for line in flag_lines(Settings()))


# ---------------------------------------------------------------------- flagfiles


def test_the_flagfile_comes_first_and_is_overridden(tmp_path):
    file = write(tmp_path / "a.flags", "# a recipe", "", "--layers=4", "--sizes=7,8", "--nowash")
    assert parse(Settings, [f"--flagfile={file}"]).layers == 4
    got = parse(Settings, [f"--flagfile={file}", "--layers=5", "--sizes=9", "--wash"])
    # A list is replaced, not added to.
    assert (got.layers, got.sizes, got.wash) == (5, (9,), True)
    assert parse(Settings, ["--layers=5", "--flagfile", file]).layers == 4


def test_flagfiles_nest(tmp_path):
    inner = write(tmp_path / "inner.flags", "--layers=4", "--color=blue")
    outer = write(tmp_path / "outer.flags", f"--flagfile={inner}", "--layers=6")
    got = parse(Settings, [f"--flagfile={outer}"])
    assert (got.layers, got.color) == (6, "blue")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--layers=0", "at least 1"),
        ("--layrs=4", "Did you mean: layers"),
        ("--run=runs/a   # where to", "move it up a line"),
        ("--color=red # the best", "move it up a line"),
        ("--layers=4 # not more", "layers"),
        ("--flagfile=gone.flags", "gone.flags"),
        ("layers=4", "unexpected argument"),
    ],
)
def test_mistakes_in_nested_flagfiles_are_told(tmp_path, line, told):
    inner = write(tmp_path / "inner.flags", line)
    outer = write(tmp_path / "outer.flags", f"--flagfile={inner}")
    with pytest.raises(UserError, match=told):
        parse(Settings, [f"--flagfile={outer}"])


def test_a_flagfile_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=tmp_path.name):
        parse(Settings, [f"--flagfile={tmp_path}"])
    binary = tmp_path / "picture.png"
    binary.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(UserError, match=r"flagfile|picture\.png"):
        parse(Settings, [f"--flagfile={binary}"])


PLAIN_TEXT = st.text("abcXYZ019_-./:[]%+ #\"'=äß", max_size=12).map(str.strip)
PLAIN_NAMES = st.text("abcXYZ019_-./", min_size=1, max_size=8)
FINITE = {"allow_nan": False, "allow_infinity": False}


@given(
    st.builds(
        Settings,
        run=PLAIN_TEXT.filter(lambda text: " #" not in text),
        color=st.sampled_from(("red", "green", "blue")),
        layers=st.integers(1, 9),
        share=st.floats(0, 1, exclude_min=True),
        wash=st.booleans(),
        sizes=st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
        names=st.lists(PLAIN_NAMES, max_size=3).map(tuple),
        ratio=st.none() | st.floats(0, exclude_min=True, **FINITE),
        count=st.none() | st.integers(2, 2**31 - 1),
    )
)
@settings(max_examples=100, deadline=None)
def test_flag_lines_are_read_back_equal(tmp_path_factory, chosen):
    lines = flag_lines(chosen)
    assert parse(Settings, lines) == chosen
    file = write(tmp_path_factory.getbasetemp() / "again.flags", *lines)
    assert parse(Settings, [f"--flagfile={file}"]) == chosen


def test_flag_lines_of_every_default_of_the_programs_are_read_back_equal():
    assert parse(PretrainConfig, flag_lines(PretrainConfig())) == PretrainConfig()


# ---------------------------------------------------------------------- help


def test_help_lists_every_flag_under_its_group():
    text = help_text(PretrainConfig, "What it does.")
    assert text.startswith("What it does.")
    groups = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            heading = line[:-1]
        elif line.startswith("  --"):
            groups[line.split()[0].removeprefix("--")] = heading
    fields = dataclasses.fields(PretrainConfig)
    expected = {f.name: MOST_USED if f.metadata["common"] else f.metadata["group"] for f in fields}
    assert groups == expected
    assert next(iter(groups.values())) == MOST_USED
    assert all(field.metadata["text"] for field in fields)


def test_help_shows_defaults_and_choices():
    text = help_text(Settings, "")
    assert "--layers [3]" in text
    assert "--sizes [1,2]" in text
    assert "of the car. One of: red, green, blue." in text
    # Nothing to show for an empty text or an unset number.
    assert "--run\n" in text
    assert "--ratio\n" in text


def test_every_default_keeps_its_own_bounds():
    assert cli.check(PretrainConfig()) == PretrainConfig()
    assert not math.isnan(PretrainConfig().learning_rate)


# ---------------------------------------------------------------------- programs

PROGRAM = '''
"""Paints cars."""
import dataclasses
from adios_tf import cli
from adios_tf.cli import setting
from adios_tf.errors import UserError

@dataclasses.dataclass(frozen=True)
class Settings:
    layers: int = setting(3, "of paint", "paint", least=1)
    end: str = setting("well", "how it ends", "paint")

def main(settings):
    if settings.end == "badly":
        raise UserError("the paint is empty: buy some")
    if settings.end == "interrupted":
        raise KeyboardInterrupt
    if settings.end.startswith("reads"):
        open(settings.end.removeprefix("reads "))
    if settings.end == "bug":
        raise RuntimeError("not the user's mistake")
    print(f"{settings.layers} layers")

cli.start(main, Settings, __doc__)
'''


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    file = tmp_path_factory.mktemp("bin") / "paint.py"
    file.write_text(PROGRAM)

    def run(*arguments):
        command = [sys.executable, str(file), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_a_program_that_ends_well(program):
    done = program("--layers=5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 layers\n", "")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--layers=0", "paint.py: --layers=0: must be at least 1"),
        ("--end=badly", "paint.py: the paint is empty: buy some"),
        (f"--end=reads {'x' * 300}", f"paint.py: cannot use {'x' * 300} (File name too long)"),
        (f"--layers={2**31}", "paint.py: --layers=2147483648: must be at most 2147483647"),
    ],
)
def test_a_mistake_ends_with_code_2_and_one_line(program, argument, line):
    done = program(argument)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line + "\n")


def test_an_interrupted_program(program):
    done = program("--end=interrupted")
    assert (done.returncode, done.stderr) == (130, "paint.py: interrupted\n")


def test_a_bug_keeps_its_traceback(program):
    done = program("--end=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_ends_well_even_beside_mistakes(program):
    done = program("--layers=0", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Paints cars." in done.stdout
    assert "--end [well]" in done.stdout


def test_without_a_terminal_no_bar_is_drawn(capfd, monkeypatch):
    from tqdm import tqdm

    monkeypatch.setattr(tqdm, "__init__", tqdm.__init__)  # put back at the end
    for _ in tqdm(range(3), "before", disable=False, mininterval=0):
        pass
    cli._one_bar(terminal=False)
    for _ in tqdm(range(3), "after", disable=False, mininterval=0):
        pass
    told = capfd.readouterr().err
    assert "before" in told
    assert "after" not in told
