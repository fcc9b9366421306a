import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from adios_tf.errors import UserError
from adios_tf.reporting import report
from adios_tf.reporting.health import feature_health, mask_health
from adios_tf.reporting.panels import mask_panel
from adios_tf.reporting.report import MOST_PANELS, write_report
from adios_tf.reporting.tables import append_jsonl, write_json

EVIL = "<script>alert('1')</script>\"&"


class _Page(HTMLParser):
    """Checks that tags nest, and collects what the tests ask about."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "my <run> & more"
    rng = np.random.default_rng(0)
    features = rng.normal(size=(64, 16))
    masks = rng.dirichlet(np.full(4, 0.2), size=(2, 8, 8))
    for epoch in range(1, 4):
        health = {**feature_health(features, features + 0.2), **mask_health(masks)}
        record = {"epoch": epoch, "distance": 1 / epoch, "knn": 0.2 * epoch, EVIL: 1.5, **health}
        append_jsonl(folder / "metrics.jsonl", record)
        mask_panel(rng.random((2, 8, 8, 3)), masks, path=folder / f"pictures/masks_{epoch:03d}.png")
    (folder / "flags.txt").write_text(f"--dataset=shapes\n--epochs=3\n--norun\n--data_dir={EVIL}\n")
    write_json(
        folder / "environment.json",
        {"command": f"python x.py {EVIL}", "commit": "abc123", "packages": {"keras": "3.15.0"}},
    )
    write_json(
        folder / "summary.json",
        {
            "knn_pixels": 0.301,
            "knn_untrained": 0.25,
            "knn_trained": 0.706,
            "mask_ari": 0.4,
            "mask_ari_random": -0.01,
            "seconds": 1234.5,
            "images_per_second": 99.44,
            "peak_memory_mb": 700,
            "feature_dim": 16,
            "other": EVIL,
        },
    )
    return folder


@pytest.fixture
def quick_curves(monkeypatch):
    """A stand-in for the curves, which take seconds and are tested elsewhere."""

    def draw(records, path, **_):
        if not records:
            return None
        Image.new("RGB", (4, 4)).save(path)
        return path

    monkeypatch.setattr(report, "draw_curves", draw)


def test_a_finished_run_shows_its_numbers_and_where_they_come_from(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    page = _Page(path.read_text(encoding="utf-8"))
    for words in (
        "my <run> & more", "finished", "dataset shapes", "epoch 3 of 3",
        "30.1 %", "25.0 %", "70.6 %", "0.400", "-0.010", "+45.6 points", "+40.5 points",
        "1,234 s", "99.4 images/s", "700 MB", "all 20 are healthy", "abc123", "3.15.0",
        "--norun", "3 epochs", EVIL,
    ):  # fmt: skip
        assert words in page.text, words


def test_everything_is_escaped_and_inside_the_file(run_dir):
    text = write_report(run_dir).read_text(encoding="utf-8")
    page = _Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert "http" not in text
    for image in page.all("img"):
        assert image["alt"]
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert len(page.all("img")) == 3 + 1
    assert page.all("source")[0]["media"].startswith("screen and (prefers-color-scheme: dark)")
    assert page.all("html")[0]["lang"] == "en"


@pytest.mark.usefixtures("quick_curves")
def test_ill_health_is_shown_first_with_advice(run_dir):
    append_jsonl(run_dir / "metrics.jsonl", {"epoch": 4, "feature_spread": 0.01, "alignment": 0.1})
    page = _Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert "at epoch 4: 1 of 2 are outside" in page.text
    assert page.text.index("features collapse") < page.text.index("1 healthy")


@pytest.mark.usefixtures("quick_curves")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("summary.json", "No summary.json yet"),
        ("metrics.jsonl", "No epoch recorded yet"),
        ("environment.json", "Not there: environment.json"),
        ("flags.txt", "Not there: flags.txt"),
        ("pictures", "No mask pictures"),
    ],
)
def test_a_run_in_progress_says_what_is_missing(run_dir, name, words):
    path = run_dir / name
    path.rename(run_dir / "elsewhere")
    page = _Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert words in page.text
    assert ("unfinished" in page.text) == (name == "summary.json")


def test_an_empty_folder_and_a_torn_line_still_make_a_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "dist')
    page = _Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "unfinished" in page.text


@pytest.mark.usefixtures("quick_curves")
def test_a_long_run_embeds_first_last_and_a_few_between(run_dir):
    first = (run_dir / "pictures/masks_001.png").read_bytes()
    for epoch in range(1, 41):
        (run_dir / f"pictures/masks_{epoch}.png").write_bytes(first)
    for epoch in (1, 2, 3):
        (run_dir / f"pictures/masks_{epoch:03d}.png").unlink()
    page = _Page(write_report(run_dir).read_text(encoding="utf-8"))
    shown = [int(n) for n in re.findall(r"Masks at epoch (\d+):", str(page.all("img")))]
    assert len(shown) == MOST_PANELS
    assert shown[:2] == [1, 40]
    assert shown[2:] == sorted(set(shown[2:]))
    assert "30 more in the folder pictures" in page.text


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path / "missing")
    (tmp_path / "summary.json").write_text("[1")
    with pytest.raises(UserError, match=r"summary\.json is not JSON"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text("[1]")
    with pytest.raises(UserError, match="must be a JSON object"):
        write_report(tmp_path)
