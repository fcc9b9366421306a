"""What tests/faults/flags_program.py found, and that it draws every flag there is."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from adios_tf.reporting.tables import read_jsonl
from adios_tf.training.run import pretrain

TRAINED = {  # each ended with a traceback once
    "a constant rate is a variable": "--schedule=constant",
}


@pytest.fixture(scope="module")
def program(plugin):
    place = Path(__file__).with_name("flags_program.py")
    spec = importlib.util.spec_from_file_location("flags_program", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", TRAINED)
def test_combinations_that_train(settings, tmp_path, case):
    pretrain(settings(tmp_path / "run", "--epochs=1", *TRAINED[case].split()))
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 3


@pytest.mark.parametrize("name", ["pretraining", "evaluation", "masks", "export"])
def test_every_flag_is_drawn(program, name):
    """Sensibly, and with an absurd value where its type leaves room for one."""
    _, settings, base, place = program.PROGRAMS[name]
    flags = {field.name for field in dataclasses.fields(settings)} - set(program.LEFT_OUT)
    skipped = len(base) + len(place)
    drawn = [program.draw(name, number)[skipped:] for number in range(1000)]
    assert flags - {"run_dir", "out"} <= {arg[2:].split("=")[0] for args in drawn for arg in args}
    absurd = program.absurd_pairs(settings)
    assert flags <= {arg[2:].split("=")[0] for arg in absurd}
    assert program.draw(name, 7) == program.draw(name, 7)
