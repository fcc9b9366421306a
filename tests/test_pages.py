"""The pages say what the code does: flags, ranges, tests and links that they name are there."""

import dataclasses
import re
import shlex
import sys
import types
import typing
from importlib import import_module
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from adios_tf import cli
from adios_tf.data import CATALOG
from adios_tf.encoders import BACKBONES
from adios_tf.evaluation.config import joined
from adios_tf.masking import FILLS, MASKINGS
from adios_tf.objectives import OBJECTIVES
from adios_tf.reporting.health import RULES, range_text
from adios_tf.training.build import build_pretrainer
from adios_tf.training.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
MADE = {"api.md", "changelog.md", "contributing.md", "notebooks.md"}  # by docs/site_hooks.py
ABSL = {"flagfile", "help", "recipe", "verbose"}
# Of pytest, ruff, saved_model_cli, TensorBoard, the programs in tests/ and PyTorch's.
OTHERS = {
    "golden",
    "doctest_modules",
    "select",
    "dir",
    "all",
    "state",
    "minutes",
    "session",
    "seconds",
    "short",
    "clients",
    "logdir",
}
PROGRAMS = {
    path.stem: import_module(f"adios_tf.programs.{path.stem}")
    for path in (ROOT / "adios_tf/programs").glob("[a-z]*.py")
}


def settings_of(program):
    """The dataclass of a program's flags."""
    hints = typing.get_type_hints(PROGRAMS[program].main)
    return next(hint for name, hint in hints.items() if name != "return")


def text(page):
    return (ROOT / page).read_text()


def fields(settings):
    return {field.name: field for field in dataclasses.fields(settings)}


@pytest.mark.parametrize("page", PAGES)
def test_flags_exist(page):
    known = {n: f for program in PROGRAMS for n, f in fields(settings_of(program)).items()}
    names = {*known, *(f"no{n}" for n, f in known.items() if f.type in (bool, "bool"))}
    prose = re.sub(r"(ruff|uv|docker|#SBATCH) [^\n]*", "", text(page))
    named = {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z_-]*[a-z])", prose)}
    assert named - names - ABSL - OTHERS == set()


def commands(page):
    """[(program, arguments)] of the blocks of shell commands."""
    blocks = re.findall(r"```(?:bash|sh|)\n(.*?)```", text(page), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in lines:
        match = re.match(r"(?:\S*python bin/(\w+)\.py|adios-([\w-]+))\b(.*)", line)
        if match:
            program = (match[1] or match[2]).replace("-", "_")
            yield program, shlex.split(match[3], comments=True)


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_parsed(page):
    for program, arguments in commands(page):
        # RUN/pretrain.flags is what an import writes.
        arguments = [one for one in arguments if not one.startswith("--flagfile=RUN")]
        if "--help" not in arguments:
            cli.parse(settings_of(program), joined(arguments, "compare"))


def test_every_flag_of_pretraining_is_on_its_page_under_its_group():
    table = re.findall(r"^\| (\w+)[^|]*\| (`--.*`) \|$", text("docs/training.md"), re.MULTILINE)
    listed = [(flag, group) for group, row in table for flag in re.findall(r"--(\w+)", row)]
    assert len(dict(listed)) == len(listed)
    assert dict(listed) == {n: f.metadata["group"] for n, f in fields(PretrainConfig).items()}


@pytest.mark.parametrize("page", PAGES)
def test_tests_exist(page):
    for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text(page)):
        assert (ROOT / path).is_file(), path
        assert f"def {name}(" in (ROOT / path).read_text() or not name, name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#:]+)\)", text(page)):
        assert (folder / link).exists() or (page.startswith("docs/") and link in MADE), link


def test_healthy_ranges():
    """The table of docs/health.md, for 4 slots and 512 dimensions, is that of the code."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text("docs/health.md"), re.MULTILINE)
    expected = [
        (rule.pattern.replace(r"\d+", "n"), range_text(*rule.range(4, 512))) for rule in RULES
    ]
    assert rows == expected
    for name, _ in rows:
        assert f"- **`{name}`**" in text("docs/health.md"), name


def test_the_catalog():
    rows = re.findall(r"^\| `(\w+)` \|([^\n]*)\|$", text("docs/data.md"), re.MULTILINE)
    assert [name for name, _ in rows] == list(CATALOG)
    for name, cells in rows:
        info = CATALOG[name]
        side, classes, train, test, _ = (cell.strip() for cell in cells.split("|"))
        assert int(side) == info.image_size, name
        if info.num_classes is not None:
            assert classes == (str(info.num_classes) if info.num_classes else "-"), name
        assert (train, test) == (info.train_split, info.test_split), name


def examples(page):
    return re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)


def test_views_from_python():
    (code,) = examples("docs/data.md")
    names = {}
    exec(code, names)
    batch = next(iter(names["batches"]))
    assert batch["view1"].shape == batch["view2"].shape == (16, 32, 32, 3)
    assert batch["label"].numpy().tolist() == [-1] * 16


def test_custom_encoders(monkeypatch):
    """Both encoders of CONTRIBUTING.md are built, with a parameter, and read back."""
    _, code = examples("CONTRIBUTING.md")
    for part in ("_entries", "_lines"):
        monkeypatch.setattr(BACKBONES, part, dict(getattr(BACKBONES, part)))
    exec(code, {"__name__": "my_encoders"})
    for name, own in (("mobilenet", ("alpha=0.35",)), ("small_vit", ("depth=1", "width=6"))):
        config = PretrainConfig(image_size=32, backbone=name, set=own, masking="none")
        features = build_pretrainer(config, 1, None).objective.encoder.output_shape
        assert features == (None, 6 if name == "small_vit" else 1280)


def test_custom_components(monkeypatch):
    """The objective, the masking and the fill of CONTRIBUTING.md train together."""
    code, _ = examples("CONTRIBUTING.md")
    for registry in (OBJECTIVES, MASKINGS, FILLS):
        for part in ("_entries", "_lines"):
            monkeypatch.setattr(registry, part, dict(getattr(registry, part)))
    module = types.ModuleType("my_components")
    monkeypatch.setitem(sys.modules, "my_components", module)
    exec(code, module.__dict__)

    config = PretrainConfig(
        image_size=16,
        backbone="convnet_small",
        objective="align_uniform",
        hidden_dim=16,
        output_dim=8,
        masking="band",
        fill="mirror",
        optimizer="sgd",
        learning_rate=0.05,
        schedule="constant",
    )
    model = build_pretrainer(config, steps_per_epoch=10, num_classes=None)
    views = tf.random.stateless_uniform((2, 8, 16, 16, 3), [1, 2])
    batch = {"view1": views[0], "view2": views[1]}
    hidden = model.masking.masks(views[1], None, tf.constant([3, 4]))
    assert hidden.shape == (8, 16, 16, 1)
    assert float(tf.reduce_mean(hidden)) == 0.25
    covered = model.fill.cover(views[1], hidden[..., 0], tf.constant([3, 4])).images
    expected = tf.where(hidden > 0, views[1][:, :, ::-1], views[1])
    tf.debugging.assert_near(covered, expected)

    read = keras.saving.deserialize_keras_object
    again = read(keras.saving.serialize_keras_object(model.objective))
    again.set_weights(model.objective.get_weights())
    ours, theirs = (o.embed(views[0], True, True, training=False) for o in (model.objective, again))
    tf.debugging.assert_equal(ours.query, theirs.query)

    distances = []
    for _ in range(5):
        for mean in model.metrics:
            mean.reset_state()
        distances.append(float(model.train_step(batch)["distance"]))
    assert distances[-1] < distances[0]
