"""Schedules, EMA momenta and LARS against the official implementation's numbers."""

import re

import keras
import numpy as np
import pytest

from adios_tf.nets.torch_weights import to_keras_layout
from adios_tf.optimizers import build_optimizer
from adios_tf.schedules import WarmupCosine, build_schedule, cosine_ramp

pytestmark = pytest.mark.usefixtures("float64")

STEPS_PER_EPOCH = 3
# What the official programs hard-wire into `method_schedule` (golden/README.md).
METHOD_BASES = {"classifier": 0.1, "mask": 0.05}
METHOD_BASE, BYOL_SHORTENED = 0.4, 10


@pytest.fixture
def lr(golden):
    return golden("lr")


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


def test_schedules(lr):
    names = [str(name) for name in lr["names/schedule"]]
    assert sorted(names) == sorted(lr.meta["schedules"])
    assert names
    for name in names:
        facts, expected = lr.meta["schedules"][name], lr[f"schedule/{name}/lr"]
        assert expected.shape == (facts["epochs"] + 1, len(facts["base_lrs"]))
        np.testing.assert_array_equal(lr[f"schedule/{name}/base_lrs"], facts["base_lrs"])
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


def test_method_schedules(lr):
    for method in map(str, lr["names/method_schedule"]):
        prefix = f"method_schedule/{method}"
        groups = [str(name) for name in lr[f"{prefix}/encoder_group_names"]]
        columns = dict(zip(groups, lr[f"{prefix}/encoder_groups_lr"].T, strict=True))
        assert "encoder" in columns
        for index, column in enumerate(lr[f"{prefix}/mask_groups_lr"].T):
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


def test_ema_momentum(lr):
    names = [str(name) for name in lr["names/tau"]]
    assert names
    for name in names:
        base, final, total = map(float, re.findall(r"[0-9.]+", name))
        expected = lr[f"tau/{name}"]
        assert len(expected) == total + 1
        momenta = cosine_ramp(np.arange(int(total) + 1), int(total), base, final).numpy()
        np.testing.assert_allclose(momenta, expected, rtol=5e-7, err_msg=name)


def traces(file, facts, rates, root, after, name):
    """Runs LARS on the stored gradients and compares the weights after every step.

    `rates` and the decays are those of two groups, of which `cls.*` is the second.
    """
    prefix = f"{root}w0/keras/"
    weights = {n.removeprefix(prefix): file[n].astype(np.float64) for n in file.names(prefix)}
    steps = sorted({int(h[4:]) for h in file.heads(root) if h.startswith("grad")})
    assert steps
    variables = {w: keras.Variable(value, name=w) for w, value in weights.items()}
    groups = []
    for rate, decay, cls in (*zip(rates, facts["decays"], (False, True), strict=True),):
        members = [w for w in weights if w.startswith("cls.") == cls]
        optimizer = build_optimizer(
            "lars",
            float(rate[0]),
            weight_decay=decay,
            momentum=facts["momentum"],
            eta=facts["eta"],
            clip=facts["clip"],
            exclude_1d=facts["exclude_bias_n_norm"],
        )
        optimizer.build([variables[w] for w in members])
        groups.append((optimizer, members, rate))
    for step in steps:
        for optimizer, members, rate in groups:
            optimizer.learning_rate = float(rate[step - 1])
            # The official run gave this one no gradient at all.
            gradients = [
                None if w.startswith("none_grad") else file[f"{root}grad{step}/keras/{w}"]
                for w in members
            ]
            pairs = [(g, variables[w]) for g, w in zip(gradients, members, strict=True)]
            optimizer.apply_gradients(pairs)
        for weight, variable in variables.items():
            expected = to_keras_layout(file[f"{after}{step}/torch/{weight}"])
            np.testing.assert_allclose(
                variable.numpy(),
                expected,
                rtol=0,
                atol=1e-12 * np.abs(expected).max(),
                err_msg=f"{name} step {step} {weight}",
            )


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.cases("lr", lambda file: file["names/lars"])
def test_lars(lr, case):
    facts = lr.meta["lars"][case]
    assert facts["eps"] == 1e-8
    groups = ("group0", "group1_cls")
    facts["decays"] = [facts[f"weight_decay_{group}"] for group in groups]
    rates = [np.full(99, facts[f"lr_{group}"]) for group in groups]
    traces(lr, facts, rates, "lars/", f"lars/{case}/after", case)


@pytest.mark.cases("lars", lambda file: file["names"])
def test_lars_of_the_recipes(golden, case):
    """Among the weights: a fused qkv, and its thirds as weights of their own."""
    file = golden("lars")
    facts = file.meta | file.meta["cases"][case]
    assert facts["eps"] == 1e-8
    facts["decays"] = [file.meta["weight_decay"], file.meta["weight_decay_cls"]]
    rates = [file["lr"], file["lr_cls"]]
    traces(file, facts, rates, "", f"{case}/after", case)
    fused = file[f"{case}/after{len(file['lr'])}/torch/qkv.weight"]
    apart = [file[f"{case}/after{len(file['lr'])}/torch/{n}.weight"] for n in "qkv"]
    assert np.abs(fused - np.concatenate(apart)).max() > 1e-6
