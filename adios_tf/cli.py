"""Flags from a frozen dataclass, and one way for every program to start and to fail.

A program in `bin/` is a dataclass of settings and a function that takes it:

    @dataclasses.dataclass(frozen=True)
    class Settings:
        run: str = setting("", "run folder to read", group="input")

    cli.start(main, Settings, __doc__)

`--flagfile=FILE`, or `--recipe=NAME` for a recipe that comes with the package, comes first on the
command line; what follows overrides it.
"""

import dataclasses
import functools
import os
import re
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from tqdm import tqdm

from adios_tf.errors import Stopped, UserError, user_error
from adios_tf.flagfiles import expand
from adios_tf.registry import import_plugins, unknown_name

MOST_USED = "most used"
_LARGEST = 2**31 - 1  # TensorFlow counts, and seeds its draws, with int32
_ALWAYS = """\
--flagfile=FILE reads settings from a file; put it first, overrides behind it.
--recipe=NAME reads those of a recipe that comes with the package.
--verbose lets TensorFlow's own messages through."""


def recipes() -> dict[str, str]:
    """Returns {name: what it is} of the recipes that come with the package."""
    root = _recipe_folder()
    found = {}
    for file in sorted(root.rglob("*.flags")):
        first = file.read_text(encoding="utf-8").splitlines()[0]
        found[str(file.relative_to(root).with_suffix(""))] = first.lstrip("# ")
    return found


def _recipe_folder() -> Path:
    """`configs/` of a clone, or the same folder within an installed package."""
    here = Path(__file__).parent
    clone = here.parent
    return clone / "configs" if (clone / "pyproject.toml").is_file() else here / "recipes"


def program(name: str) -> str:
    """How the user starts a program: by its file in a clone, else by the wheel's command."""
    if Path(sys.argv[0]).name.startswith("adios-") or _recipe_folder().name != "configs":
        return f"adios-{name.replace('_', '-')}"
    return f"python bin/{name}.py"


def recipe_file(name: str) -> Path:
    """Returns a file of the recipes, such as `quickstart` or `study/methods.txt`.

    Raises:
      UserError: there is none of that name.
    """
    for file in (_recipe_folder() / name, _recipe_folder() / f"{name}.flags"):
        if file.is_file():
            return file
    raise unknown_name("recipe", name, recipes())


def setting(
    default: Any,
    text: str,
    group: str = "general",
    choices: Sequence[str] | None = None,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    common: bool = False,
    pairs: bool = False,
) -> Any:
    """Declares one field of a settings dataclass, and so one flag.

    Args:
      default: its type is the flag's type; a tuple is a comma-separated list.
      text: the help line.
      group: the heading under which `--help` lists it.
      choices: the allowed strings.
      least, above, most: bounds of a number: value >= least, > above, <= most.
      common: whether `--help` lists it first, among the flags that are used most.
      pairs: a list of NAME=VALUE whose flag may be repeated; of one NAME the last holds.
    """
    limits = {"least": least, "above": above, "most": most}
    metadata = {"text": text, "group": group, "choices": choices, "common": common, "pairs": pairs}
    return dataclasses.field(default=default, metadata=metadata | limits)


def _kinds(settings_class: type) -> dict[str, tuple[type, type | None]]:
    """Returns {field: (type, item type of a tuple)}, with `X | None` read as X."""
    kinds = {}
    for name, hint in typing.get_type_hints(settings_class).items():
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
        item = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None
        kinds[name] = (typing.get_origin(hint) or hint, item)
    return kinds


def is_flag_type(hint: Any) -> bool:
    """Whether a flag can be of that type."""
    field = dataclasses.make_dataclass("One", [("one", hint)])
    kind, item = _kinds(field)["one"]
    return kind in (str, int, float, bool) or (kind is tuple and item in (str, int, float))


def _define(settings_class: type, values: flags.FlagValues) -> None:
    makers = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        tuple: flags.DEFINE_list,
    }
    kinds = _kinds(settings_class)
    for field in dataclasses.fields(settings_class):
        kind, _ = kinds[field.name]
        default: Any = field.default
        if kind is tuple:
            default = [str(item) for item in default or ()]
        maker = flags.DEFINE_multi_string if field.metadata["pairs"] else makers[kind]
        maker(field.name, default, field.metadata["text"], flag_values=values)


def check(settings: Any) -> Any:
    """Returns the settings; raises `UserError` where a value breaks its declared bounds."""
    for field in dataclasses.fields(settings):
        value, rule = getattr(settings, field.name), field.metadata
        flag = f"--{field.name}={value}"
        if isinstance(value, str) and re.search(r"\s#", value):
            raise UserError(
                f"{flag}: a flagfile takes no comment behind a value; move it up a line"
            )
        if rule["choices"] is not None and value not in rule["choices"]:
            raise unknown_name(f"value of --{field.name}", str(value), rule["choices"])
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if isinstance(number, int) and number > _LARGEST:
                raise UserError(f"{flag}: must be at most {_LARGEST}")
            if rule["least"] is not None and not number >= rule["least"]:
                raise UserError(f"{flag}: must be at least {rule['least']}")
            if rule["above"] is not None and not number > rule["above"]:
                raise UserError(f"{flag}: must be above {rule['above']}")
            if rule["most"] is not None and not number <= rule["most"]:
                raise UserError(f"{flag}: must be at most {rule['most']}")
    return settings


def parse(settings_class: type, argv: Sequence[str]) -> Any:
    """Returns the settings that the arguments (without the program's name) spell.

    Raises:
      UserError: an unknown flag, a value of the wrong type or outside its bounds, a missing
        flagfile, or a stray argument.
    """
    values = flags.FlagValues()
    _define(settings_class, values)
    try:
        stray = values(["program", *expand(argv, recipe_file)])[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if stray:
        raise UserError(f"unexpected argument {stray[0]!r}: settings are written --name=value")
    chosen = {}
    rules = {field.name: field.metadata for field in dataclasses.fields(settings_class)}
    for name, (_, item) in _kinds(settings_class).items():
        value = values[name].value
        if rules[name]["pairs"]:
            value = _pairs(value or ())
        if item is not None:
            try:
                value = tuple(item(part) for part in value or () if part != "")
            except ValueError as error:
                raise UserError(f"--{name}: {error}") from error
        chosen[name] = value
    settings = check(settings_class(**chosen))
    if hasattr(settings, "given"):
        here = {word.lstrip("-").partition("=")[0] for word in argv}
        given = {n: bool({n, f"no{n}"} & here) for n in chosen if values[n].present}
        given |= dict.fromkeys(["flagfile"] if {"flagfile", "recipe"} & here else [], True)
        object.__setattr__(settings, "given", given)
    if hasattr(settings, "preset"):  # {flag: value} in place of the defaults
        instead = {k: v for k, v in settings.preset().items() if not values[k].present}
        settings = dataclasses.replace(settings, **instead)
    return settings


def _pairs(words: Sequence[str]) -> list[str]:
    """Returns the last NAME=VALUE of each NAME; what follows a comma without = is of its VALUE."""
    found: dict[str, str] = {}
    for part in ",".join(words).split(",") if words else ():
        if "=" in part or not found:
            name = part.partition("=")[0].strip()
            found[name] = part.strip()
        else:
            found[name] += f",{part}"
    return list(found.values())


def flag_lines(settings: Any) -> list[str]:
    """Returns the settings as the lines of a flagfile that `parse` reads back equal."""
    lines = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None:
            continue
        if isinstance(value, tuple):
            value = ",".join(str(item) for item in value)
        elif isinstance(value, bool):
            value = str(value).lower()
        lines.append(f"--{field.name}={value}")
    return lines


def help_text(settings_class: type, doc: str) -> str:
    """Returns the text of `--help`: the flags under their groups, with defaults."""
    groups: dict[str, list[str]] = {MOST_USED: [], "input": []}
    for field in dataclasses.fields(settings_class):
        rule, default = field.metadata, field.default
        if isinstance(default, tuple):
            default = ",".join(str(item) for item in default)
        choices = f" One of: {', '.join(rule['choices'])}." if rule["choices"] else ""
        shown = "" if default is None or default == "" else f" [{default}]"
        line = f"  --{field.name}{shown}\n        {rule['text']}.{choices}"
        groups.setdefault(MOST_USED if rule["common"] else rule["group"], []).append(line)
    parts = [doc.strip(), "\n" + _ALWAYS]
    for group, lines in groups.items():
        if lines:
            parts.append(f"\n{group}:\n" + "\n".join(lines))
    return "\n".join(parts)


def quiet_tensorflow() -> None:
    """Imports TensorFlow so that neither it nor absl nor TFDS writes to the terminal.

    Some of what TensorFlow prints while it is imported no setting turns off: it is kept back, and
    shown after all if the import fails. With --verbose everything is let through.
    """
    if _verbose():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.stderr.flush()
    visible = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf
            import tensorflow_datasets as tfds
        except BaseException:
            kept.seek(0)
            os.write(visible, kept.read())
            raise
        finally:
            os.dup2(visible, 2)
            os.close(visible)
    logging.set_verbosity(logging.ERROR)
    tf.get_logger().setLevel("ERROR")
    tfds.disable_progress_bar()


def _verbose() -> bool:
    return "ADIOS_VERBOSE" in os.environ


def _one_bar(terminal: bool) -> None:
    """Lets this process show one progress bar at a time, none without a terminal."""
    make = tqdm.__init__

    @functools.wraps(make)
    def tame(self: tqdm, *args: Any, **kwargs: Any) -> None:
        others = [bar for bar in list(tqdm._instances) if bar is not self]
        if not terminal or any(not getattr(bar, "disable", True) for bar in others):
            kwargs["disable"] = True
        make(self, *args, **kwargs)

    tqdm.__init__ = tame


def start(main: Callable[[Any], Any], settings_class: type, doc: str) -> None:
    """Runs a program: parses the flags, calls `main(settings)`, turns mistakes into one line.

    Progress bars are for terminals: elsewhere there are plain lines only.

    Exit codes: 0 done, 2 a user's mistake (one line on standard error), 75 stopped by a signal
    and saved, or by the loss of another worker, 130 interrupted.
    """
    argv = [arg for arg in sys.argv[1:] if arg not in ("--verbose", "-verbose")]
    if len(argv) < len(sys.argv) - 1:
        os.environ["ADIOS_VERBOSE"] = "1"  # for the processes that this one starts, too
    if any(arg in ("--help", "-h", "-help", "--helpfull", "--helpshort") for arg in argv):
        print(help_text(settings_class, doc))
        sys.exit(0)
    _one_bar(sys.stderr.isatty())
    try:
        settings = parse(settings_class, argv)
        if plugins := getattr(settings, "plugins", ()):
            quiet_tensorflow()
            import_plugins(plugins)
        main(settings)
    except Exception as error:
        mistake = user_error(error)
        if mistake is None and isinstance(error, OSError) and error.filename is not None:
            mistake = UserError(f"cannot use {os.fsdecode(error.filename)} ({error.strerror})")
        if mistake is None or (_verbose() and isinstance(error, OSError)):
            raise
        # Not `print`: a progress bar that the mistake cut short would share its line.
        tqdm.write(f"{Path(sys.argv[0]).name}: {mistake}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        tqdm.write(f"{Path(sys.argv[0]).name}: {stop}", file=sys.stderr)
        sys.exit(Stopped.CODE)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)
