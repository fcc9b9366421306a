import numpy as np
import pytest
from PIL import Image

from adios_tf.reporting import curves
from adios_tf.reporting.curves import draw_curves, sections, series


def _records(epochs=4):
    return [
        {
            "epoch": epoch,
            "distance": 3.0 / epoch,
            "knn": 0.1 * epoch,
            "feature_spread": 0.05 * epoch,
            **{
                f"coverage_{n}_{k}": 0.2 + 0.1 * k_n
                for n in (0, 1, 10)
                for k_n, k in enumerate(("min", "mean", "max"))
            },
            "learning_rate": 0.1,
            "masker_learning_rate": 0.01,
        }
        for epoch in range(1, epochs + 1)
    ]


def test_series_are_sorted_and_hold_only_numbers():
    records = [
        {"epoch": 2, "a": 2.0, "note": "text", "flag": True},
        {"epoch": 1, "a": None, "b": 1},
        {"epoch": 2, "a": 3.0},
        {"a": 9.0},
    ]
    assert series(records) == {"a": [(2.0, 3.0)], "b": [(1.0, 1.0)]}


def test_metrics_find_their_chart_in_natural_order():
    found = sections([*_records()[0], "unheard_of"])
    shown = {chart.title: names for charts in found.values() for chart, names in charts}
    assert shown["coverage"] == ["coverage_0_mean", "coverage_1_mean", "coverage_10_mean"]
    assert shown["learning rates"] == ["learning_rate", "masker_learning_rate"]
    assert shown["kNN accuracy"] == ["knn"]
    assert list(found) == ["Training", "What was learned", "Features", "Masks", "Pace"]


def test_no_metric_is_drawn_twice():
    names = [
        "distance", "masker_objective", "penalty", "probe_loss", "probe_accuracy", "knn",
        "mask_ari", "feature_spread", "mask_sharpness", "overlap", "learning_rate",
        "masker_learning_rate", "images_per_second", "peak_memory_mb", "loss",
    ]  # fmt: skip
    drawn = [n for charts in sections(names).values() for _, members in charts for n in members]
    assert sorted(drawn) == sorted(names)


@pytest.mark.parametrize("dark", [False, True])
def test_a_picture_is_drawn_on_its_ground(tmp_path, dark):
    path = draw_curves(_records(), tmp_path / "new" / "curves.png", feature_dim=8, dark=dark)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape[1] > 300
    ground = picture[2, 2]
    assert (ground.mean() < 60) == dark
    # Ink in the top row of charts as well as in the bottom one.
    for part in np.array_split(picture, 4):
        assert (np.abs(part - ground).sum(-1) > 100).any()


def test_more_metrics_make_a_taller_picture(tmp_path):
    few = draw_curves([{"epoch": 1, "distance": 1.0}], tmp_path / "few.png")
    many = draw_curves([{**_records(1)[0], "penalty": 1.0}], tmp_path / "many.png")
    assert Image.open(many).height > Image.open(few).height
    assert Image.open(many).width > Image.open(few).width


def test_nothing_to_draw_writes_nothing(tmp_path):
    for records in ([], [{"epoch": 1}], [{"distance": 1.0}], [{"epoch": 1, "distance": None}]):
        assert draw_curves(records, tmp_path / "curves.png") is None
    assert not list(tmp_path.iterdir())


def _axes(records, monkeypatch, tmp_path, **kwargs):
    """The axes that `draw_curves` fills, by title."""
    seen = {}
    limits = curves._limits

    def spy(axes, chart, *rest):
        limits(axes, chart, *rest)
        seen[chart.title] = axes

    monkeypatch.setattr(curves, "_limits", spy)
    draw_curves(records, tmp_path / "curves.png", **kwargs)
    return seen


def test_a_healthy_edge_is_shown_where_crossed_and_not_where_far(monkeypatch, tmp_path):
    facts = {"feature_spread": 0.01, "uniformity": -0.2, "alignment": 0.1}
    records = [{"epoch": e, **{k: v * (1 + 0.01 * e) for k, v in facts.items()}} for e in (1, 2)]
    axes = _axes(records, monkeypatch, tmp_path)
    assert axes["feature spread"].get_ylim()[1] > 0.3
    assert axes["uniformity"].get_ylim()[0] < -0.5
    assert axes["alignment"].get_ylim()[1] < 0.2
    assert "healthy: ≥ 0.3" in axes["feature spread"].get_title("right")


def test_the_band_of_coverage_spans_min_to_max(monkeypatch, tmp_path):
    axes = _axes(_records(), monkeypatch, tmp_path)["coverage"]
    assert len(axes.lines) >= 3
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.2, 0.4))
