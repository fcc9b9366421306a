"""Features of a folder, in each format, taken up where they stopped."""

import csv
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image

import adios_tf
from adios_tf import pretrained
from adios_tf.encoders import build_encoder
from adios_tf.errors import UserError
from adios_tf.exporting import embeddings
from adios_tf.exporting.embeddings import embed
from adios_tf.programs.embed import Settings, main

SIDE = 16
NAMES = [f"{part}/{n}.png" for part in ("a", "b") for n in range(3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("run")
    info = {"image_size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3}
    pretrained.save(folder / "model", info, build_encoder("convnet_small", SIDE, width=0.25))
    return folder


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, 20, 3), np.uint8)).save(file)
    return tmp_path / "images"


def test_every_format_holds_the_model_s_features(run, images, tmp_path, monkeypatch, capsys):
    (images / "b" / "lost.png").write_bytes(b"no image")
    pixels = np.stack([np.asarray(Image.open(images / name)) for name in NAMES])
    wanted = adios_tf.load(run).features(pixels).numpy()

    main(Settings(run=str(run), images=str(images), out=f"{tmp_path}/x.npz", skip_broken=True))
    assert "6 images" in capsys.readouterr().out
    with np.load(tmp_path / "x.npz") as found:
        assert found["names"].tolist() == NAMES
        assert found["broken"][0][0] == "b/lost.png"
        assert found["features"].dtype == np.float32
        np.testing.assert_allclose(found["features"], wanted, atol=1e-5)

    again = adios_tf.Run(run).embed(images, skip_broken=True, batch_size=4)
    assert (list(again.names), list(again.broken)) == (NAMES, ["b/lost.png"])
    np.testing.assert_allclose(again.features, wanted, atol=1e-5)

    embed(run, images, tmp_path / "x.csv", skip_broken=True)
    with (tmp_path / "x.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    numbers = [[float(row[f"f{n}"]) for n in range(wanted.shape[1])] for row in rows]
    np.testing.assert_allclose(numbers, wanted, atol=1e-5)

    embed(run, images, tmp_path / "x.tsv", skip_broken=True)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "x.tsv"), wanted, atol=1e-5)
    assert (tmp_path / "x.names.tsv").read_text().split() == NAMES
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "x.tsv"' in config
    assert 'metadata_path: "x.names.tsv"' in config
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"images", "x.npz", "x.csv", "x.tsv", "x.names.tsv", "projector_config.pbtxt"}


def test_it_goes_on_where_it_stopped(run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "_CHUNK", 1)
    whole = embed(run, images)
    seen, answers = [], embeddings.answers

    def stops(model, network, root, names, batch_size):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(names)
        return answers(model, network, root, names, batch_size)

    monkeypatch.setattr(embeddings, "answers", stops)
    with pytest.raises(KeyboardInterrupt):
        embed(run, images, tmp_path / "x.npz", batch_size=2)
    assert not (tmp_path / "x.npz").exists()
    monkeypatch.setattr(embeddings, "answers", lambda *a: seen.append(a[3]) or answers(*a))
    found = embed(run, images, tmp_path / "x.npz", batch_size=2)
    assert [list(names) for names in seen] == [NAMES[:2], NAMES[2:4], NAMES[4:]]
    assert found.names == whole.names
    np.testing.assert_allclose(found.features, whole.features, atol=1e-6)
    assert not list(tmp_path.glob("*.parts"))


def test_mistakes_are_one_line(run, images, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"ending of --out '\.npy': did you mean '\.npz'"):
        embed(run, images, tmp_path / "x.npy")
    with pytest.raises(UserError, match="is not a folder"):
        embed(run, tmp_path / "none")
    (images / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read broken\.png: .*--skip_broken"):
        embed(run, images, tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"--run .*are required"):
        main(Settings(images=str(images)))
    monkeypatch.setattr(embeddings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs pandas and pyarrow: pip install") as error:
        embed(run, images, tmp_path / "x.parquet")
    assert "\n" not in str(error.value)


def test_parquet_is_a_table_of_names_and_features(run, images, tmp_path, monkeypatch):
    """With a stand-in for pandas, which need not be installed."""
    made = []

    class Table(dict):
        def __init__(self, values, columns):
            super().__init__(zip(columns, values.T, strict=True))

        def insert(self, place, name, values):
            self[name] = (place, values)

        def to_parquet(self, path):
            made.append((path, self))

    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Table))
    monkeypatch.setattr(embeddings.importlib.util, "find_spec", lambda name: True)
    found = embed(run, images, tmp_path / "x.parquet")
    ((path, table),) = made
    assert path == tmp_path / "x.parquet"
    assert table["name"] == (0, found.names)
    np.testing.assert_array_equal(table["f1"], found.features[:, 1])
