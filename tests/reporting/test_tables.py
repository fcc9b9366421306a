import json
import os
from pathlib import Path

import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.reporting.tables import (
    append_jsonl,
    format_table,
    format_value,
    read_jsonl,
    write_json,
    write_jsonl,
)


def test_numbers_stand_right_and_words_left():
    rows = [
        {"method": "simclr", "knn": 0.51237, "seeds": 3},
        {"method": "a longer name", "knn": None, "seeds": 12, "unseen": 1},
    ]
    assert format_table(rows, ["method", "knn", "seeds"]) == (
        "method           knn  seeds\n"
        "-------------  -----  -----\n"
        "simclr         0.512      3\n"
        "a longer name      -     12"
    )


def test_all_columns_in_order_of_appearance_and_no_rows():
    assert format_table([{"b": 1}, {"a": 2, "b": 3}]).splitlines()[0] == "b  a"
    assert format_table([], ["x", "long"]) == "x  long\n-  ----"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (np.int64(7), "7"),
        (np.float32(0.5), "0.500"),
        (0.0, "0.000"),
        (1e-5, "1e-05"),
        (float("nan"), "nan"),
        ("text", "text"),
    ],
)
def test_values(value, shown):
    assert format_value(value) == shown


def test_json_takes_numpy_and_paths_and_makes_nan_null(tmp_path):
    value = {
        "a": np.float32(0.5),
        "b": np.arange(3),
        "c": [float("nan"), np.inf, np.nan],
        "d": np.bool_(True),
        1: (Path("x/y"), None),
    }
    write_json(tmp_path / "new" / "file.json", value)
    text = (tmp_path / "new" / "file.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": [None, None, None],
        "d": True,
        "1": ["x/y", None],
    }


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = write_json(tmp_path / "file.json", {"old": 1})

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_lines_are_appended_read_and_replaced(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    assert read_jsonl(path) == []
    for epoch in range(3):
        append_jsonl(path, {"epoch": epoch, "loss": np.float32(epoch / 2)})
    assert read_jsonl(path) == [{"epoch": e, "loss": e / 2} for e in range(3)]
    write_jsonl(path, read_jsonl(path)[:1])
    append_jsonl(path, {"epoch": 1, "text": "line\u2028break\nand é"})
    assert [record["epoch"] for record in read_jsonl(path)] == [0, 1]
    assert read_jsonl(path)[1]["text"] == "line\u2028break\nand é"


@pytest.mark.parametrize("cut", [1, 2, 8])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"epoch": 1})
    append_jsonl(path, {"epoch": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_jsonl(path) == [{"epoch": 1}]
    append_jsonl(path, {"epoch": 2, "again": True})
    assert read_jsonl(path) == [{"epoch": 1}, {"epoch": 2, "again": True}]


def test_a_first_line_torn_is_cut_off_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epo')
    append_jsonl(path, {"epoch": 1})
    assert read_jsonl(path) == [{"epoch": 1}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        read_jsonl(path)
