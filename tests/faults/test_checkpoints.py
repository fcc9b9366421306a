"""Checkpoints are whole or not there; a damaged one is found, named, kept aside and passed over."""

import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from adios_tf.errors import UserError
from adios_tf.training.checkpoints import Checkpoints


class Model(SimpleNamespace):
    """As much of a Pretrainer as a checkpoint sees."""

    def __init__(self, size=40):
        step, weight = keras.Variable(0, dtype="int64"), keras.Variable(np.zeros(size, "float32"))
        optimizer = SimpleNamespace(variables=[keras.Variable(np.zeros(3, "float32"))])
        others = dict.fromkeys(("masker_optimizer", "predictor_optimizer", "probe_optimizer"))
        super().__init__(
            step=step, weight=weight, variables=[step, weight], optimizer=optimizer, metrics=[]
        )
        vars(self).update(others)

    def at(self, step):
        self.step.assign(step)
        self.weight.assign(np.full(self.weight.shape, step / 7, "float32"))
        self.optimizer.variables[0].assign(np.full(3, -float(step), "float32"))
        return self

    def step_of_all(self):
        """The step that every variable stands for; fails where they disagree."""
        step = int(self.step.numpy())
        np.testing.assert_array_equal(self.weight, np.full(self.weight.shape, step / 7, "float32"))
        np.testing.assert_array_equal(self.optimizer.variables[0], np.full(3, -float(step)))
        return step


def saved(folder, *steps, keep=2):
    model = Model()
    checkpoints = Checkpoints(folder, model, keep)
    for step in steps:
        model.at(step)
        checkpoints.save({"open": False, "half": step / 2})
    return checkpoints


def restored(folder):
    """(step, what was saved beside it) of a fresh model that restores."""
    model = Model()
    checkpoints = Checkpoints(folder, model)
    checkpoints.tidy()
    step = checkpoints.restore()
    assert model.step_of_all() == step
    return step, checkpoints.epoch


# ---------------------------------------------------------------------- kills


class Killed(BaseException):
    pass


FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
countdown = [0]


def kill_at_zero(event, args):
    if countdown[0] and event in FILE_EVENTS:
        countdown[0] -= 1
        if not countdown[0]:
            raise Killed


sys.addaudithook(kill_at_zero)  # it stays, and does nothing while the countdown is 0


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step anew"])
def test_killed_before_any_file_operation(tmp_path, again):
    """Either the old checkpoints or the new one are there, and nothing is left lying about."""
    survived, before = 0, 0
    for n in range(1, 200):
        folder = tmp_path / str(n)
        checkpoints = saved(folder, 1, 2)
        checkpoints.model.at(2 if again else 3)
        countdown[0] = n
        try:
            checkpoints.save({"open": True})
        except Killed:
            pass
        else:
            break
        finally:
            countdown[0] = 0
        step, epoch = restored(folder)
        new = epoch == {"open": True}
        assert step == (3 if new and not again else 2)
        survived, before = survived + new, before + (not new)
        assert not [path.name for path in folder.iterdir() if not path.name.startswith("ckpt-")]
    assert survived >= 2  # kills while the oldest checkpoint is removed
    assert before >= 5  # kills while the new one is written
    assert n < 199


# ---------------------------------------------------------------------- damage


def truncate(file, rng):
    file.write_bytes(file.read_bytes()[: rng.integers(1, file.stat().st_size)])


def flip(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    file.write_bytes(content)


def delete(file, rng):
    file.unlink()


def empty(file, rng):
    file.write_bytes(b"")


DAMAGE = {"truncated": truncate, "flipped": flip, "deleted": delete, "emptied": empty}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_kept_and_passed_over(tmp_path, capsys, kind):
    rng = np.random.default_rng(0)
    for n in range(60 if kind == "flipped" else 3):
        folder = tmp_path / str(n)
        saved(folder, 4, 8)
        file = sorted((folder / "ckpt-8").iterdir())[n % 3]
        DAMAGE[kind](file, rng)
        bytes_left = file.read_bytes() if file.exists() else None
        assert restored(folder) == (4, {"open": False, "half": 2.0}), file
        line = capsys.readouterr().out + capsys.readouterr().err
        assert "ckpt-8 is damaged" in line
        assert file.name in line
        assert line.count("\n") == 1
        aside = folder / "ckpt-8.damaged" / file.name
        assert (aside.read_bytes() if aside.exists() else None) == bytes_left
        assert restored(folder)[0] == 4  # and is not looked at again
        saved(folder, 8)  # nor in the way


def test_every_bit_of_a_manifest_counts(tmp_path):
    saved(tmp_path, 5)
    file = tmp_path / "ckpt-5" / "manifest.json"
    whole = file.read_bytes()
    checkpoints = Checkpoints(tmp_path, Model())
    for at in range(0, len(whole) * 8, 3):
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        file.write_bytes(content)
        with pytest.raises(UserError, match="no intact checkpoint"):
            checkpoints.restore(keep_aside=False)
    file.write_bytes(whole)
    assert checkpoints.restore() == 5


def test_without_any_intact_checkpoint_nothing_starts_from_zero(tmp_path):
    saved(tmp_path, 4, 8)
    for step in (4, 8):
        delete(tmp_path / f"ckpt-{step}" / "weights.index", None)
    with pytest.raises(UserError, match="no intact checkpoint"):
        restored(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ckpt-4.damaged", "ckpt-8.damaged"]
    with pytest.raises(UserError, match="no intact checkpoint"):  # a second try neither
        restored(tmp_path)
    assert Checkpoints(tmp_path, Model()).exist


# ---------------------------------------------------------------------- runs from before manifests


def old_run(folder, *steps):
    """A folder as the version before wrote it."""
    model = Model()
    checkpoints = Checkpoints(folder, model)
    manager = tf.train.CheckpointManager(checkpoints._holder, str(folder), max_to_keep=9)
    for step in steps:
        model.at(step)
        manager.save(checkpoint_number=step)
    (folder / "variables.json").write_text('{"model/0000": ["step", []]}')
    (folder / "ckpt-9_temp").mkdir()


def test_a_run_without_manifests_is_read_and_goes_on(tmp_path, capsys):
    old_run(tmp_path, 2, 4, 6)
    (tmp_path / "checkpoint").unlink()
    index = tmp_path / "variables.json"
    for content in ("", "{", "[1]", '{"model/0000": {}}', '{"model/0000": []}', "[" * 100_000):
        index.write_text(content)
        assert restored(tmp_path) == (6, {})
        assert "variables.json is damaged and left out" in capsys.readouterr().out
    index.unlink()
    index.mkdir()
    assert restored(tmp_path) == (6, {})
    index.rmdir()
    flip(tmp_path / "ckpt-6.data-00000-of-00001", np.random.default_rng(1))
    empty(tmp_path / "ckpt-4.index", None)
    assert restored(tmp_path) == (2, {})
    told = capsys.readouterr().out
    assert "ckpt-6 is damaged" in told
    assert "ckpt-4 is damaged" in told
    assert (tmp_path / "ckpt-6.damaged" / "ckpt-6.index").exists()
    saved(tmp_path, 8, 10)  # the oldest go, of whichever kind
    assert list(Checkpoints(tmp_path, Model()).steps()) == [8, 10]
    assert not list(tmp_path.glob("*_temp"))


def test_a_checkpoint_of_another_architecture_is_no_damage(tmp_path):
    saved(tmp_path, 3)
    with pytest.raises(UserError, match=r"another architecture .*saved variable.* \[40\], now"):
        Checkpoints(tmp_path, Model(size=41)).restore()
    assert restored(tmp_path)[0] == 3
