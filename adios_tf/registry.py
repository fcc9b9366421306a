"""Registries: components by name, so that adding one is one file and one line."""

import ast
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adios_tf.errors import UserError


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a name that nobody registered, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}known are {', '.join(known)}")


def check_choice(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises `UserError` with the nearest known name unless `name` is among the known ones."""
    if name not in known:
        raise unknown_name(kind, name, known)


class Registry:
    """Maps a name to a class or function, with one line of description each.

    >>> colors = Registry("color")
    >>> @colors.register("red", "the color of blood")
    ... def red(): return "#f00"
    >>> colors["red"]()
    '#f00'
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Any] = {}
        self._lines: dict[str, str] = {}

    def register(self, name: str, line: str) -> Callable[[Any], Any]:
        """Decorator that files its target under `name`; `line` describes it in `--list`.

        Raises:
          ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")

        def decorate(target: Any) -> Any:
            self._entries[name], self._lines[name] = target, line
            return target

        return decorate

    def __getitem__(self, name: str) -> Any:
        """Raises `UserError` with the nearest known name where `name` is unknown."""
        if name not in self._entries:
            known = unknown_name(self.kind, name, self._entries)
            raise UserError(f"{known}; what a module of your own registers needs --plugins=MODULE")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def lines(self) -> dict[str, str]:
        """Returns {name: one-line description} in order of registration."""
        return dict(self._lines)


def declared(package: str) -> dict[str, dict[str, str]]:
    """Returns {registry: {name: line}} of what a package of ours registers, without importing it.

    Read from the decorators in its files, so that --list need not wait for TensorFlow.

    Args:
      package: its folder below `adios_tf`, such as "masking".
    """
    found: dict[str, dict[str, str]] = {}
    for file in sorted((Path(__file__).parent / package).glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for call in getattr(node, "decorator_list", ()):
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                    continue
                if call.func.attr == "register" and isinstance(call.func.value, ast.Name):
                    name, line = (ast.literal_eval(arg) for arg in call.args)
                    found.setdefault(call.func.value.id, {})[name] = line
    return found


def print_table(title: str, lines: Mapping[str, str]) -> None:
    """Prints names with their lines under a title."""
    width = max(map(len, lines))
    print(title)
    for name, line in lines.items():
        print(f"  {name:<{width}}  {line}".rstrip())


def construct(factory: Callable[..., Any], available: dict[str, Any], **given: Any) -> Any:
    """Calls a registered class or function with those available settings that it names.

    A class that passes `**kwargs` on to its bases is understood to name their parameters too.

    Args:
      factory: what a registry returned.
      available: settings by name; those that the factory does not name are left out, and so
        are those that are None: the factory's own default holds then.
      **given: passed in any case.
    """
    named = parameters(factory)
    chosen = {n: v for n, v in available.items() if n in named and v is not None}
    return factory(**(chosen | given))


def parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns what a class or function can be called with, by name; see `construct`."""
    found: dict[str, inspect.Parameter] = {}
    for layer in factory.__mro__ if inspect.isclass(factory) else (factory,):
        call = vars(layer).get("__init__") if inspect.isclass(layer) else layer
        if call is None or layer.__module__.startswith("keras."):
            continue
        own = inspect.signature(call).parameters.values()
        named = {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        found = named | found
        if not any(p.kind is p.VAR_KEYWORD for p in own):
            break
    return found


def import_plugins(names: Sequence[str]) -> None:
    """Imports a user's modules, which register custom objectives, maskings, protocols, ....

    Raises:
      UserError: a module that cannot be imported.
    """
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"--plugins={name} cannot be imported ({error}): name a module that lies in this "
                "directory or on PYTHONPATH, without .py"
            ) from error
