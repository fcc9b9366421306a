import math

import keras
import numpy as np
import pytest

from adios_tf.errors import UserError
from adios_tf.schedules import WarmupCosine, build_schedule, cosine_ramp


def _oracle(epoch, base, epochs, warmup, start, minimum):
    if epoch < warmup:
        return start + epoch * (base - start) / max(warmup - 1, 1)
    turn = math.pi * (epoch - warmup) / (epochs - warmup)
    return minimum + (base - minimum) * (1 + math.cos(turn)) / 2


@pytest.mark.parametrize(
    ("epochs", "warmup", "minimum"), [(20, 5, 0.0), (7, 1, 0.01), (3, 0, 0.0), (11, 10, 0.1)]
)
def test_per_epoch_follows_the_formula_and_stays_within_an_epoch(epochs, warmup, minimum):
    schedule = WarmupCosine(0.4, epochs, 4, warmup, 0.003, minimum)
    expected = [
        _oracle(step // 4, 0.4, epochs, warmup, 0.003, minimum) for step in range(4 * epochs)
    ]
    np.testing.assert_allclose(schedule(np.arange(4 * epochs)), expected, rtol=1e-6)


def test_per_step_is_smooth_and_meets_the_three_corners():
    schedule = WarmupCosine(0.5, 10, 100, 2, 0.1, 0.02, per_epoch=False)
    rates = schedule(np.arange(1001)).numpy()
    np.testing.assert_allclose(rates[[0, 200, 1000]], [0.1, 0.5, 0.02], rtol=1e-6)
    np.testing.assert_allclose(rates[100], 0.3, rtol=1e-6)
    np.testing.assert_allclose(rates[600], 0.26, rtol=1e-6)
    assert np.abs(np.diff(rates)).max() < 0.0021


def test_the_rate_has_the_default_float_type():
    assert WarmupCosine(0.4, 20, 5)(3).dtype == "float32"


@pytest.mark.parametrize("name", ["warmup_cosine", "cosine", "step"])
def test_a_schedule_survives_serialization(name):
    schedule = build_schedule(
        name, 0.4, 20, 5, warmup_epochs=3, warmup_start=0.01, minimum=0.001, milestones=[7, 9]
    )
    config = keras.saving.serialize_keras_object(schedule)
    copy = keras.saving.deserialize_keras_object(config)
    for step in (0, 7, 15, 34, 35, 36, 99):
        assert float(copy(step)) == float(schedule(step))


def test_step_drops_with_the_first_step_of_the_milestone():
    schedule = build_schedule("step", 0.4, 10, 5, milestones=[2, 4], gamma=0.5)
    rates = [float(schedule(step)) for step in (0, 9, 10, 19, 20, 49)]
    np.testing.assert_allclose(rates, [0.4, 0.4, 0.2, 0.2, 0.1, 0.1], rtol=1e-6)


def test_constant_is_a_number_and_cosine_has_no_warmup():
    assert build_schedule("constant", 1, 10, 5) == 1.0
    cosine = build_schedule("cosine", 0.4, 4, 1, warmup_epochs=3)
    np.testing.assert_allclose(cosine(np.array([0, 2, 4])), [0.4, 0.2, 0.0], atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "warm_cosine"}, "did you mean 'warmup_cosine'"),
        ({"warmup_epochs": 10}, "warmup_epochs=10 must be at least 0 and below epochs=10"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
        ({"epochs": 0}, "epochs=0"),
        ({"name": "cosine", "steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"base": -0.1}, "learning rate -0.1"),
        ({"base": float("nan")}, "learning rate nan"),
        ({"base": 0.1, "minimum": 0.2}, "at least its minimum 0.2"),
        ({"warmup_start": -1.0}, "warmup_start=-1.0"),
        ({"name": "step"}, "milestones"),
        ({"name": "step", "milestones": [4, 2]}, "ascending"),
        ({"name": "step", "milestones": [0, 2]}, "from 1 on"),
    ],
)
def test_a_users_mistake_is_one_line(settings, words):
    good = {"name": "warmup_cosine", "base": 0.4, "epochs": 10, "steps_per_epoch": 5}
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as error:
        build_schedule(**{**good, "warmup_epochs": 2, **settings})
    assert "\n" not in str(error.value)


def test_cosine_ramp():
    at = [float(cosine_ramp(step, 10, 0.9, 1.0)) for step in (0, 5, 10, 99)]
    np.testing.assert_allclose(at, [0.9, 0.95, 1.0, 1.0], atol=1e-7)
