"""Flagfiles: settings in files, one flag a line, `#` before a comment.

absl reads them too, but looks for a flagfile within a flagfile in the current directory alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from adios_tf.errors import UserError


def expand(
    argv: Sequence[str], recipe: Callable[[str], Path], inside: tuple[Path, ...] = ()
) -> list[str]:
    """Returns the arguments with the contents of flagfiles and recipes in their places.

    A `--flagfile` within a file is looked for beside that file first, then in the current
    directory.

    Args:
      argv: arguments, `--flagfile=PATH` and `--recipe=NAME` among them.
      recipe: finds the flagfile of a recipe.
      inside: the files that are being read.

    Raises:
      UserError: a file that is missing, is no text or contains itself.
    """
    done = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        kind = flag.lstrip("-")
        if not flag.startswith("-") or kind not in ("flagfile", "recipe"):
            done.append(word)
            continue
        if not equals:
            if not rest:
                raise UserError(f"--{kind} needs a value")
            value = rest.pop(0)
        file = recipe(value) if kind == "recipe" else Path(value).expanduser()
        if kind == "flagfile" and inside and (inside[-1].parent / file).is_file():
            file = inside[-1].parent / file
        if file.resolve() in inside:
            raise UserError(f"--flagfile={value} contains itself: {inside[-1]} names it")
        done += expand(_lines(file), recipe, (*inside, file.resolve()))
    return done


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"--flagfile={file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--flagfile={file} names a file that is not text") from error
    return [line for line in lines if line and not line.startswith(("#", "//"))]
