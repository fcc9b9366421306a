"""Schedules, EMA momenta and LARS against the official implementation's numbers."""

import json
import re

import keras
import numpy as np
import pytest

from adios_tf.optimizers import build_optimizer
from adios_tf.schedules import WarmupCosine, build_schedule, cosine_ramp

STEPS_PER_EPOCH = 3
# What the official programs hard-wire into `method_schedule` (golden/README.md).
METHOD_BASES = {"classifier": 0.1, "mask": 0.05}
METHOD_BASE, BYOL_SHORTENED = 0.4, 10


@pytest.fixture(autouse=True)
def _float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "lr.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def meta(golden):
    return json.loads(str(golden["meta_json"]))


def _rates(schedule, epochs):
    """The rate of each epoch, checked to be constant within it."""
    if isinstance(schedule, float):
        return np.full(epochs, schedule)
    steps = np.arange(epochs * STEPS_PER_EPOCH)
    if isinstance(schedule, WarmupCosine):
        rates = schedule(steps).numpy()
    else:
        rates = np.array([float(schedule(step)) for step in steps])
    rates = rates.reshape(epochs, STEPS_PER_EPOCH)
    np.testing.assert_array_equal(rates, np.repeat(rates[:, :1], STEPS_PER_EPOCH, axis=1))
    return rates[:, 0]


def test_schedules(golden, meta):
    names = [str(name) for name in golden["names/schedule"]]
    assert sorted(names) == sorted(meta["schedules"])
    assert names
    for name in names:
        facts, expected = meta["schedules"][name], golden[f"schedule/{name}/lr"]
        assert expected.shape == (facts["epochs"] + 1, len(facts["base_lrs"]))
        np.testing.assert_array_equal(golden[f"schedule/{name}/base_lrs"], facts["base_lrs"])
        if "milestones" in facts:
            kind, options = "step", {k: facts[k] for k in ("milestones", "gamma")}
        elif "warmup_epochs" in facts:
            kind = "warmup_cosine"
            options = {
                "warmup_epochs": facts["warmup_epochs"],
                "warmup_start": facts["warmup_start_lr"],
                "minimum": facts["eta_min"],
            }
        else:
            kind, options = "cosine", {"minimum": facts["eta_min"]}
        length = facts.get("max_epochs", facts["epochs"])
        for group, base in enumerate(facts["base_lrs"]):
            if base < options.get("minimum", 0):
                continue
            schedule = build_schedule(kind, base, length, STEPS_PER_EPOCH, **options)
            np.testing.assert_allclose(
                _rates(schedule, len(expected)),
                expected[:, group],
                rtol=1e-6 if kind == "step" else 1e-9,  # Keras's steps are float32
                atol=1e-12,
                err_msg=f"{name} group {group}",
            )


def test_method_schedules(golden):
    for method in map(str, golden["names/method_schedule"]):
        prefix = f"method_schedule/{method}"
        groups = [str(name) for name in golden[f"{prefix}/encoder_group_names"]]
        columns = dict(zip(groups, golden[f"{prefix}/encoder_groups_lr"].T, strict=True))
        assert "encoder" in columns
        for index, column in enumerate(golden[f"{prefix}/mask_groups_lr"].T):
            columns[f"mask{index}"] = column
        assert "mask0" in columns
        epochs = len(columns["encoder"])
        for group, expected in columns.items():
            base = METHOD_BASES.get(group.rstrip("0123456789"), METHOD_BASE)
            if method.startswith("simsiam") and group == "predictor":
                # The official first epoch uses the warm-up's start; ours is constant.
                rates = _rates(build_schedule("constant", base, epochs, STEPS_PER_EPOCH), epochs)
                rates, expected = rates[1:], expected[1:]
            else:
                shorter = BYOL_SHORTENED if "byol" in method and "mask" not in group else 0
                rates = _rates(WarmupCosine(base, epochs - shorter, STEPS_PER_EPOCH), epochs)
            np.testing.assert_allclose(
                rates, expected, rtol=1e-9, atol=1e-12, err_msg=f"{method} {group}"
            )


def test_ema_momentum(golden):
    names = [str(name) for name in golden["names/tau"]]
    assert names
    for name in names:
        base, final, total = map(float, re.findall(r"[0-9.]+", name))
        expected = golden[f"tau/{name}"]
        assert len(expected) == total + 1
        momenta = cosine_ramp(np.arange(int(total) + 1), int(total), base, final).numpy()
        np.testing.assert_allclose(momenta, expected, rtol=5e-7, err_msg=name)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_lars(golden, meta):
    names = [str(name) for name in golden["names/lars"]]
    assert sorted(names) == sorted(meta["lars"])
    prefix = "lars/w0/keras/"
    weights = sorted(key.removeprefix(prefix) for key in golden if key.startswith(prefix))
    assert {"none_grad.weight", "zero_grad.weight", "cls.weight", "cls.bias"} <= set(weights)
    steps = sorted({int(key.split("/")[1][4:]) for key in golden if key.startswith("lars/grad")})
    for name in names:
        facts = meta["lars"][name]
        assert facts["eps"] == 1e-8
        variables = {w: keras.Variable(golden[f"lars/w0/keras/{w}"], name=w) for w in weights}
        groups = (
            ([w for w in weights if not w.startswith("cls.")], "group0"),
            ([w for w in weights if w.startswith("cls.")], "group1_cls"),
        )
        optimizers = []
        for members, group in groups:
            optimizer = build_optimizer(
                "lars",
                facts[f"lr_{group}"],
                weight_decay=facts[f"weight_decay_{group}"],
                momentum=facts["momentum"],
                eta=facts["eta"],
                clip=facts["clip"],
                exclude_1d=facts["exclude_bias_n_norm"],
            )
            optimizer.build([variables[w] for w in members])
            optimizers.append((optimizer, members))
        for step in steps:
            for optimizer, members in optimizers:
                # The official run gave this one no gradient at all.
                gradients = [
                    None if w.startswith("none_grad") else golden[f"lars/grad{step}/keras/{w}"]
                    for w in members
                ]
                pairs = [(g, variables[w]) for g, w in zip(gradients, members, strict=True)]
                optimizer.apply_gradients(pairs)
            for weight in weights:
                np.testing.assert_allclose(
                    variables[weight].numpy(),
                    golden[f"lars/{name}/after{step}/keras/{weight}"],
                    rtol=1e-9,
                    atol=1e-12,
                    err_msg=f"{name} step {step} {weight}",
                )
