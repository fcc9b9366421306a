"""The one owner of a run folder's files."""

import json
import subprocess
import sys

import pytest

from adios_tf.errors import UserError
from adios_tf.run_folder import RunFolder
from adios_tf.training.lock import locked


def test_what_is_written_is_read_again(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert (run.flag_lines(), run.settings(), run.records(), run.evaluated()) == ([], {}, [], [])
    assert run.read(run.summary) == {}
    assert not run.has_model
    run.path.mkdir()
    run.begin(["--seed=3", "--class_list=", "--probe", "# --not=this"], {"python": "3"})
    run.add_record({"epoch": 1})
    run.add_record({"epoch": 2})
    assert run.settings() == {"seed": "3", "class_list": "", "probe": "true"}
    assert run.read(run.environment) == {"python": "3"}
    with run.metrics.open("a") as file:
        file.write('{"epoch": 3')  # torn by a kill
    assert [record["epoch"] for record in run.records()] == [1, 2]
    run.replace_records(run.records()[:1])
    assert [record["epoch"] for record in run.records()] == [1]


def test_a_model_folder_is_found_in_a_run_and_by_itself(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "info.json").write_text("{}")
    assert RunFolder(tmp_path).model == RunFolder(model).model == model
    assert RunFolder(tmp_path).has_model


@pytest.mark.parametrize("name", ["summary", "environment", "before"])
@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_damaged_files_are_one_line(tmp_path, name, text):
    run = RunFolder(tmp_path)
    getattr(run, name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=f"{name}.json") as error:
        run.read(getattr(run, name))
    assert "\n" not in str(error.value)


def test_a_damaged_record_is_one_line(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_text(json.dumps({"epoch": 1}) + "\nnonsense\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is not JSON"):
        run.records()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--run_dir"), locked(tmp_path / "file" / "run"):
        pass


def test_it_needs_no_tensorflow():
    code = "import sys, adios_tf.run_folder; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
