"""Pages of the site that are made from other files: API, contributing, changes, notebooks."""

import importlib
import inspect
import json
import re
from pathlib import Path
from types import FunctionType, ModuleType

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"


def api_page() -> str:
    """Every public name of `adios_tf`, one entry each, from its docstring."""
    import adios_tf

    names = {name: getattr(adios_tf, name) for name in adios_tf.__all__}
    modules = {name: part for name, part in names.items() if isinstance(part, ModuleType)}
    lines = ["# API", "## adios_tf"]
    lines += [entry(f"adios_tf.{name}", names[name]) for name in names if name not in modules]
    for name, module in modules.items():
        lines += [f"## adios_tf.{name}", first_line(module)]
        public = getattr(module, "__all__", None) or [
            n
            for n, part in vars(module).items()
            if not n.startswith("_") and getattr(part, "__module__", "") == module.__name__
        ]
        lines += [entry(f"adios_tf.{name}.{n}", getattr(module, n)) for n in public]
    return "\n\n".join(lines)


def first_line(part: object) -> str:
    return (inspect.getdoc(part) or "").split("\n\n")[0]


def entry(name: str, part: object) -> str:
    """A directive for a class or function; a line for anything else (registries, constants)."""
    home = getattr(part, "__module__", "")
    if not (inspect.isclass(part) or inspect.isfunction(part)):
        kind = type(part).__name__
        described = first_line(part) if kind not in ("str", "int", "tuple", "dict") else ""
        return f"### `{name}`\n\n{kind}. {described}"
    importlib.import_module(home)
    lines = [f"::: {home}.{part.__qualname__}", "    options:", f"      heading: {name}"]
    if inspect.isclass(part):
        methods = [
            n
            for n, method in vars(part).items()
            if isinstance(method, FunctionType | property) and inspect.getdoc(method)
            if not n.startswith("_") and n not in ("get_config", "build", "compute_output_shape")
        ]
        lines.append(f"      members: {json.dumps(methods)}")
    return "\n".join(lines)


def notebook_page() -> str:
    """The notebooks' cells, as they are committed (without output)."""
    parts = [
        "# Notebooks",
        "Both are executed by the tests; `jupyter lab docs/notebooks` opens them.",
    ]
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        parts.append(f"*`docs/notebooks/{path.name}`*")
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            code = cell["cell_type"] == "code"
            # One first-level heading per page.
            parts.append(f"```python\n{source}\n```" if code else re.sub(r"^#", "##", source))
    return "\n\n".join(parts)


def from_root(name: str) -> str:
    """A page of the repository's root, with its links seen from docs/."""
    return re.sub(r"\]\(docs/", "](", (ROOT / name).read_text())


def on_files(files, config):
    """Adds the pages that are made."""
    made = {
        "api.md": api_page(),
        "contributing.md": from_root("CONTRIBUTING.md"),
        "changelog.md": from_root("CHANGELOG.md"),
        "notebooks.md": notebook_page(),
    }
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files
