"""Nothing that is read is run: the package's own source, and the Keras files that it loads."""

import ast
import json
import shutil
import zipfile
from pathlib import Path

import keras
import pytest
import tiny

from adios_tf import pretrained
from adios_tf.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
INFO = {"image_size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
RUN_WHAT_THEY_READ = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
    "torch",
}
# PyTorch's files are pickles: read by an unpickler that refuses all names but a few, see
# tests/exporting/test_torch_file.py, and written.
ALLOWED = {"adios_tf/exporting/torch_file.py": {"pickle"}}
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}
UNSAFE = {("shell", True), ("allow_pickle", True), ("safe_mode", False), ("weights_only", False)}


def findings(source: str) -> set[str]:
    """What in the source could run something that was read."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names} & RUN_WHAT_THEY_READ
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module.split(".")[0]} & RUN_WHAT_THEY_READ
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "pickle" and node.attr in ("load", "loads"):
                found.add(f"pickle.{node.attr}")
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
            builtin = isinstance(node.func, ast.Name)
            if (builtin and name in ("eval", "exec", "compile", "__import__")) or name in SHELLS:
                found.add(name)
            if name.startswith("enable_unsafe"):
                found.add(name)
            for word in node.keywords:
                value = getattr(word.value, "value", "not a constant")
                for argument, unsafe in UNSAFE:
                    if word.arg == argument and value is not (not unsafe):
                        found.add(f"{word.arg}={value}")
    return found


def test_no_source_runs_what_it_reads():
    for folder in ("adios_tf", "bin"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            assert findings(file.read_text()) <= ALLOWED.get(name, set()), name


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle.x", "pickle"),
        ("from torch import load", "torch"),
        ("pickle.loads(x)", "pickle.loads"),
        ("eval(x)", "eval"),
        ("__import__(x)", "__import__"),
        ("os.system(x)", "system"),
        ("subprocess.run(x, shell=True)", "shell=True"),
        ("subprocess.run(x, shell=flag)", "shell=not a constant"),
        ("np.load(x, allow_pickle=True)", "allow_pickle=True"),
        ("keras.models.load_model(x, safe_mode=False)", "safe_mode=False"),
        ("keras.config.enable_unsafe_deserialization()", "enable_unsafe_deserialization"),
    ],
)
def test_the_search_finds(source, what):
    assert findings(source) == {what}
    assert findings("model.compile(x); re.compile(y); np.load(z); run(a, shell=False)") == set()


# ---------------------------------------------------------------------- Keras files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    pretrained.save(run / "model", INFO, tiny.encoder(16, 6))
    return run


@pytest.fixture
def hostile(tmp_path):
    """A model whose Lambda layer would make a file."""
    flag, name = tmp_path / "was_run", str(tmp_path / "was_run")
    inputs = keras.Input((16, 16, 3))
    made = keras.layers.Lambda(lambda x: (open(name, "w"), x)[1], output_shape=(16, 16, 3))(inputs)  # noqa: SIM115
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(made))
    flag.unlink(missing_ok=True)
    return model, flag


def refused(path):
    with pytest.raises(UserError) as caught:
        pretrained.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_lambda_layer_is_refused_and_not_run(folder, hostile, tmp_path):
    model, flag = hostile
    run = shutil.copytree(folder, tmp_path / "run")
    model.save(run / "model" / "encoder.keras")
    flag.unlink(missing_ok=True)
    assert "encoder.keras" in refused(run)
    assert not flag.exists()

    export = tmp_path / "export"  # the same in the architecture beside an export
    (export / "assets.extra").mkdir(parents=True)
    weights = keras.Variable([1.0]).value
    import tensorflow as tf

    tf.train.Checkpoint(encoder_0000=weights).write(str(export / "variables" / "variables"))
    content = {"info": INFO, "parts": {"encoder": model.to_json()}}
    (export / "assets.extra" / "architecture.json").write_text(json.dumps(content))
    flag.unlink(missing_ok=True)
    assert "cannot read the SavedModel" in refused(export)
    assert not flag.exists()


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_zip_bomb_is_refused(folder, tmp_path, member):
    """A member that would unpack to 128 MiB, in a file of a fraction of one; it is not unpacked."""
    run = shutil.copytree(folder, tmp_path / "run")
    file = run / "model" / "encoder.keras"
    with zipfile.ZipFile(folder / "model" / "encoder.keras") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if name != member:
                archive.writestr(name, content)
        with archive.open(member, "w", force_zip64=True) as bomb:
            for _ in range(8):
                bomb.write(bytes(2**24))
    assert file.stat().st_size < 2**19
    assert "would unpack to more than a hundred times its size" in refused(run)
